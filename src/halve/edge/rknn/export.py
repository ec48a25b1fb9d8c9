"""From a model in QuantizeLinear and DequantizeLinear to one for Rockchip's NPU, with its ranges, tried in a simulator.

The toolkit gets the float graph between the codes, quantizes it by its own "hybrid" steps, and between them our ranges
replace those that it found. Where that fails, it gets the model with the codes as it is. It also quantizes the float
model by its own algorithms; what leaves most of the outputs in its simulator is what is written.
"""

import json
import signal
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import ModelProto

from halve.edge.joins import split_like
from halve.edge.model import FloatModel, load
from halve.edge.quantize import write
from halve.edge.rknn.stripped import Stripped, stripped
from halve.edge.running import Sample, Session, compared
from halve.edge.samples import Picture, read
from halve.errors import OutputError, UnsupportedError

ROUTES = ("hybrid", "direct")  # for our codes: the second where the first fails
ALGORITHMS = ("kl_divergence", "mmse")  # the toolkit's
JUDGING = 20  # samples that the simulator, which is slow, gets
_SECONDS = 1800  # that one build and its simulation may take
_LINES = 3  # of what the toolkit said last that an error quotes


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written to ``path``; SQNR in dB of the outputs of the float model on ``judged`` calibration samples."""

    path: Path
    target: str
    route: str
    nbytes: int
    kept: int  # activations with our ranges
    tensors: int  # that the toolkit knows
    float16: int
    judged: int
    ours: float
    simulated: Mapping[str, float]  # by route, that of ``route`` the largest
    failed: tuple[str, ...]  # routes that failed, and why

    columns: ClassVar[tuple[str, ...]] = ("what", "runs in", "dB")

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """The cells of `columns`."""
        yield "float model", "ONNX Runtime", "exact"
        yield "halve's integers", "ONNX Runtime", f"{self.ours:.1f}"
        for route, db in self.simulated.items():
            what = "halve's ranges" if route in ROUTES else f"the toolkit's {route}"
            written = ", written" if route == self.route else ""
            yield f"{what}{written}", "RKNN's simulator", f"{db:.1f}"

    @property
    def summary(self) -> str:
        """In a sentence."""
        kept = f"{self.kept} of {self.tensors} ranges are halve's" if self.tensors else f"by {self.route}"
        return f"{self.path}: {self.nbytes / 1e6:.2f} MB for {self.target} ({kept}, {self.float16} layers in FP16)"

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "path": str(self.path),
            "target": self.target,
            "route": self.route,
            "bytes": self.nbytes,
            "ranges_kept": self.kept,
            "tensors": self.tensors,
            "float16": self.float16,
            "judged": self.judged,
            "sqnr_db": {"onnxruntime": self.ours, "rknn_simulator": dict(self.simulated)},
            "failed": list(self.failed),
        }


def export(
    quantized: str | Path,
    source: str | Path,
    out: str | Path,
    calibration: str | Path,
    *,
    target: str,
    python: Path,
    picture: Picture | None = None,
    seconds: float = _SECONDS,
) -> Exported:
    """Write ``quantized``, which `halve.edge.quantize` made of the float model ``source``, as ``out`` for ``target``.

    ``python`` is the interpreter that has the toolkit (`halve.edge.rknn.environment`), ``calibration`` and ``picture``
    as in `halve.edge.quantize.quantize`; ``seconds`` is how long a build may take. Outputs that were parted there
    (``split_outputs``) are compared part by part, and stay parted.

    Raises OutputError where ``out`` exists, UnsupportedError where ``quantized`` was not made of ``source`` and where
    no route succeeds, quoting what the toolkit said last, and what `load`, `stripped`, `split_like` and `read` raise.
    """
    quantized, source, out = Path(quantized), Path(source), Path(out)
    if out.exists():
        raise OutputError(f"{out} exists", hint="name another file, or remove it")
    exact, between = load(source), stripped(quantized)
    _check(between.proto, exact, quantized)
    whole = onnx.load(str(quantized))
    exact = split_like(exact, [one.name for one in whole.graph.output])
    samples = read(Path(calibration), exact, picture or Picture())
    judged = samples[:JUDGING]
    reference = _outputs(exact.proto, exact.outputs, judged)
    ours = compared(reference, _outputs(whole, exact.outputs, judged))
    failed: list[str] = []
    told: dict[str, dict[str, Any]] = {}
    simulated: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="halve-rknn-") as scratch:
        job = _Job(Path(scratch), target, python, seconds)
        job.place(exact, samples, judged)
        for route in (*ROUTES, *ALGORITHMS):
            if (route == "direct" and told) or (route in ALGORITHMS and not told):
                continue
            proto = {"hybrid": between.proto, "direct": whole}.get(route, exact.proto)
            try:
                answer = job.run(route, fixed(proto, samples[0]), between)
                outputs = job.simulated(route, reference)
            except UnsupportedError as error:
                failed.append(f"{route}: {error}")
                continue
            told[route], simulated[route] = answer, compared(reference, outputs)
        if not told:
            raise UnsupportedError(
                f"{quantized}: the toolkit makes no file of it. {' '.join(failed)}",
                hint="halve edge check says which layers the target does not take",
            )
        best = max(simulated, key=lambda route: simulated[route])
        job.deliver(best, out)
    return Exported(
        path=out,
        target=target,
        route=best,
        nbytes=out.stat().st_size,
        kept=int(told[best].get("kept", 0)),
        tensors=int(told[best].get("tensors", 0)),
        float16=int(told[best].get("float16", 0)),
        judged=len(judged),
        ours=ours,
        simulated=simulated,
        failed=tuple(failed),
    )


def _check(proto: ModelProto, exact: FloatModel, path: Path) -> None:
    """Other tools leave out a ReLU that a zero point stands for, which the float graph then lacks."""
    told = {one.key: one.value for one in proto.metadata_props}
    if told.get("halve.source_sha256") != exact.source:
        raise UnsupportedError(
            f"{path} was not made of {exact.path} by `halve edge quantize`",
            hint="quantize that model, and export the result",
        )


def fixed(proto: ModelProto, sample: Sample) -> ModelProto:
    """``proto`` for inputs of the shapes of ``sample`` alone: the toolkit takes no others."""
    found = ModelProto()
    found.CopyFrom(proto)
    for value in found.graph.input:
        if value.name in sample:
            shape = onnx.helper.make_tensor_type_proto(value.type.tensor_type.elem_type, sample[value.name].shape)
            value.type.CopyFrom(shape)
    del found.graph.value_info[:]
    for value in found.graph.output:
        value.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(found)


def _outputs(proto: ModelProto, names: Sequence[str], samples: Sequence[Sample]) -> list[list[np.ndarray]]:
    session = Session(proto)
    return [session.run(sample, names) for sample in samples]


@dataclass(frozen=True, slots=True)
class _Job:
    """Files for the toolkit in ``folder``."""

    folder: Path
    target: str
    python: Path
    seconds: float

    def place(self, model: FloatModel, samples: Sequence[Sample], judged: Sequence[Sample]) -> None:
        lines = []
        for number, sample in enumerate(samples):
            paths = [self.folder / f"{number}-{at}.npy" for at, _ in enumerate(model.inputs)]
            for path, one in zip(paths, model.inputs, strict=True):
                np.save(path, sample[one.name])
            lines.append(" ".join(map(str, paths)))
        (self.folder / "dataset.txt").write_text("\n".join(lines))
        (self.folder / "judging.json").write_text(json.dumps([line.split() for line in lines[: len(judged)]]))

    def run(self, route: str, proto: ModelProto, between: Stripped) -> dict[str, Any]:
        """What the worker answers. Raises UnsupportedError where it fails, dies or takes too long."""
        work, model, job = self.folder / route, self.folder / f"{route}.onnx", self.folder / f"{route}.json"
        work.mkdir()
        onnx.save(proto, str(model))
        asked = {
            "route": "own" if route in ALGORITHMS else route,
            "algorithm": route,
            "target": self.target,
            "model": str(model),
            "dataset": str(self.folder / "dataset.txt"),
            "judging": json.loads((self.folder / "judging.json").read_text()),
            "ranges": between.ranges,
            "float16": sorted(between.wide),
            "work": str(work),
            "out": str(self.folder / f"{route}.rknn"),
            "simulated": str(self.folder / f"{route}.npz"),
        }
        job.write_text(json.dumps(asked))
        with as_file(files(__package__).joinpath("worker.py")) as script:
            try:
                done = subprocess.run(  # noqa: S603 - the worker, on files that were written here
                    [str(self.python), "-I", str(script), str(job)],
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=self.seconds,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise UnsupportedError(f"it was not done within {self.seconds:g} s.") from None
            except OSError as error:
                raise UnsupportedError(f"{self.python}: {error.strerror}.") from None
        answer = _answer(job.with_name(f"{job.name}.answer"))
        if done.returncode < 0:
            raise UnsupportedError(f"it died of {signal.Signals(-done.returncode).name}{_last(done)}.")
        if done.returncode or answer is None:
            raise UnsupportedError(f"it ended with exit code {done.returncode}{_last(done)}.")
        if "error" in answer:
            raise UnsupportedError(f"{answer['error']}{_last(done)}.")
        return answer

    def simulated(self, route: str, reference: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
        """The simulator's outputs, in the shapes of ``reference``. Raises UnsupportedError where they are others."""
        try:
            with np.load(self.folder / f"{route}.npz") as found:
                outputs = [found[f"output_{at}"] for at in range(len(found.files))]
            return [
                [outputs[at][number].reshape(one.shape) for at, one in enumerate(exact)]
                for number, exact in enumerate(reference)
            ]
        except (OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile) as error:
            raise UnsupportedError(f"the simulator's outputs are not those of the model: {error}.") from None

    def deliver(self, route: str, out: Path) -> None:
        """Put the file where it was asked for, whole or not at all."""
        write((self.folder / f"{route}.rknn").read_bytes(), out)


def _answer(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _last(done: subprocess.CompletedProcess[str]) -> str:
    """What the toolkit complained of last, in brackets."""
    said = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines()]
    lines = [line for line in said if line.startswith(("E ", "\x1b[1;31mE")) or "Error" in line] or said
    told = " / ".join(line[:200] for line in lines if line)
    return f" ({' / '.join(told.split(' / ')[-_LINES:])})" if told else ""
