"""From a float ONNX file to one in integers."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import onnx
from onnx import ModelProto

import halve
from halve.edge import hybrid, joins, ptq
from halve.edge.affine import Activations
from halve.edge.hybrid import Goal, Mixed
from halve.edge.joins import Join
from halve.edge.model import load
from halve.edge.ptq import Calibrated, Report
from halve.edge.qdq import quantized
from halve.edge.running import Session
from halve.edge.samples import Picture, read
from halve.errors import OutputError


@dataclass(frozen=True, slots=True)
class EdgeQuantization:
    """What was written to ``path``."""

    path: Path
    calibrated: Calibrated
    nbytes: int
    source_bytes: int
    samples: int
    seconds: float
    mixed: Mixed | None = None  # where some activations have 16 bits
    joined: tuple[Join, ...] = ()  # outputs that are not for one scale, and are in one piece
    split: tuple[Join, ...] = ()  # outputs that were

    columns: ClassVar[tuple[str, ...]] = ("product", "operator", "dB")

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """The cells of `columns`, the product that loses most first."""
        for name, operator, db in sorted(self.calibrated.layers, key=lambda layer: layer[2]):
            yield name, operator, f"{db:.1f}"

    @property
    def summary(self) -> str:
        """In a sentence."""
        chosen, sizes = self.calibrated.chosen, f"{self.nbytes / 1e6:.2f} MB of {self.source_bytes / 1e6:.2f}"
        how = f"{chosen.calibrator} ranges, {chosen.weights} weights, equalization {chosen.equalization:g}"
        said = f"{self.path}: {sizes}, outputs {self.calibrated.sqnr:.1f} dB on samples kept aside ({how})"
        if self.mixed is not None:
            count = f"{len(self.mixed.raised)} of {len(self.calibrated.integers.ranges)} activations"
            said += f"; 16 bits in {count}, {self.mixed.part:.1%} of the multiplications"
        for one in self.joined:
            said += f"; {one.output} joins {' and '.join(one.parts)}, which one scale destroys: see --split-outputs"
        return said

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "path": str(self.path),
            "bytes": self.nbytes,
            "source_bytes": self.source_bytes,
            "samples": self.samples,
            "seconds": self.seconds,
            **self.calibrated.to_json(),
            **({} if self.mixed is None else {"mixed": self.mixed.to_json()}),
            "joined": [one.to_json() for one in self.joined],
            "split": [one.to_json() for one in self.split],
        }


def quantize(
    source: str | Path,
    out: str | Path,
    calibration: str | Path,
    *,
    activations: Activations = "int8",
    calibrator: str = ptq.AUTO,
    goal: Goal | None = None,
    split_outputs: bool = False,
    picture: Picture | None = None,
    contrib: bool = False,
    seed: int = 0,
    report: Report | None = None,
) -> EdgeQuantization:
    """Write the float ONNX model ``source`` to ``out`` with INT8 weights and 8- or 16-bit ``activations``.

    Weights are symmetric INT8 with a scale for each output channel, activations asymmetric codes without sign, biases
    INT32; `halve.edge.ptq` says how they are chosen. ``calibration`` is a folder or file as `halve.edge.samples.read`
    takes it, images prepared as ``picture`` says. With a ``goal``, as few activations as reach it get 16 bits and the
    others 8, as `halve.edge.hybrid` chooses; ``activations`` does not matter then. With ``split_outputs``, outputs that
    join what one scale would destroy become one for each part (`halve.edge.joins`). 16-bit codes ask for operator set
    21; with ``contrib`` they are ONNX Runtime's own operators instead, which older readers know. The same inputs give
    the same bytes.

    Raises OutputError where ``out`` exists or cannot be written, and what `halve.edge.model.load`,
    `halve.edge.samples.read`, `halve.edge.ptq.calibrate` and `halve.edge.hybrid.mixed` raise.
    """
    began, source, out = perf_counter(), Path(source), Path(out)
    if out.exists():
        raise OutputError(f"{out} exists", hint="name another file, or remove it")
    if not out.parent.is_dir():
        raise OutputError(f"{out.parent} is no folder", hint="make it first")
    model = load(source)
    samples = read(Path(calibration), model, picture or Picture())
    found_joins = joins.destructive(model, samples)
    if split_outputs and found_joins:
        model = joins.split(model, found_joins)
    mixed = None
    if goal is None:
        found = ptq.calibrate(model, samples, activations=activations, calibrator=calibrator, seed=seed, report=report)
    else:
        mixed = hybrid.mixed(model, samples, goal, calibrator=calibrator, seed=seed, report=report)
        found = mixed.calibrated
    proto = quantized(found.model, found.integers, contrib=contrib)
    _described(proto, found)
    onnx.checker.check_model(proto)
    Session(proto)
    write(proto.SerializeToString(deterministic=True), out)
    return EdgeQuantization(
        path=out,
        calibrated=found,
        nbytes=out.stat().st_size,
        source_bytes=source.stat().st_size,
        samples=len(samples),
        seconds=perf_counter() - began,
        mixed=mixed,
        joined=() if split_outputs else found_joins,
        split=found_joins if split_outputs else (),
    )


def write(data: bytes, out: Path) -> None:
    """Write ``data`` whole or not at all. Raises OutputError."""
    part = out.with_name(f"{out.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(out)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"{out}: {error.strerror}", hint="check the disk and permissions") from None


def _described(proto: ModelProto, found: Calibrated) -> None:
    """Say in the file where it comes from."""
    proto.producer_name, proto.producer_version = "halve", halve.__version__
    told = {
        "halve.source_sha256": found.model.source,
        "halve.activations": "mixed" if found.integers.wide else found.integers.activations,
        "halve.calibrator": found.chosen.calibrator,
        "halve.sqnr_db": f"{found.sqnr:.3f}",
    }
    onnx.helper.set_model_props(proto, told)
