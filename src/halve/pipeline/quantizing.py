"""One run of the main job: every tensor in bands, quantized, packed and written at an offset known beforehand.

Memory does not grow with the model, and neither threads nor bands change a byte of the result. Schemes with a tensor
scale read each fused group twice; the second time it comes from the page cache.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from math import isinf
from threading import Event
from time import perf_counter
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from halve import algorithms
from halve.algorithms.base import Prepared
from halve.checkpoint import manifest
from halve.checkpoint.base import DTYPES, Checkpoint
from halve.checkpoint.place import Place
from halve.errors import FormatError, HalveError
from halve.evaluate.sqnr import Sqnr
from halve.layouts.base import as_bytes
from halve.pipeline import card
from halve.pipeline.bands import content_hash, read_bands
from halve.pipeline.calibration import Calibration
from halve.pipeline.folded import Folded
from halve.pipeline.job_log import JobLog
from halve.pipeline.loss import TensorLoss
from halve.pipeline.output import Output
from halve.pipeline.pick import Pick
from halve.pipeline.plan import Plan, TensorPlan
from halve.pipeline.progress import Meter, ProgressCallback
from halve.pipeline.workers import Crew
from halve.schemes import Block, Scheme, conform
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import ScaleRule, Weights, absmax, dequantize, nonfinite_error, tensor_scale
from halve.schemes.statistics import Statistics


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """What `quantize` wrote."""

    path: Place
    plan: Plan
    bytes: int  # of the weight files, as on disk
    source_bytes: int
    seconds: float
    losses: tuple[TensorLoss, ...]  # of quantized weights, in the order of the source
    warnings: tuple[str, ...]
    pick: Pick | None = None  # how the algorithm was chosen, where it was

    @property
    def streamed(self) -> bool:
        """Whether reading and rounding is all that the time went into, and was not done before."""
        return bool(self.losses) and self.plan.recipe.algorithm == "rtn"

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "path": str(self.path),
            "scheme": self.plan.scheme.name,
            "layout": self.plan.recipe.layout,
            "bytes": self.bytes,
            "source_bytes": self.source_bytes,
            "bpw": round(self.plan.bpw, 4),
            "quantized": len(self.plan.quantized),
            "tensors": len(self.plan.tensors),
            "seconds": round(self.seconds, 3),
            "losses": {loss.name: None if isinf(loss.sqnr_db) else round(loss.sqnr_db, 2) for loss in self.losses},
            "algorithm": self.plan.recipe.algorithm,
            "pick": None if self.pick is None else self.pick.to_json(),
            "warnings": list(self.warnings),
        }

    def facts(self) -> Iterator[tuple[str, str]]:
        """What to tell, a line each."""
        yield "written", str(self.path)
        yield "scheme", f"{' + '.join(self.plan.schemes)} as {self.plan.recipe.layout}"
        yield "weights", f"{self.bytes:,} bytes, {100 * self.bytes / max(self.source_bytes, 1):.1f} % of the source"
        yield "tensors", self.plan.summary
        if finite := [loss.sqnr_db for loss in self.losses if not isinf(loss.sqnr_db)]:
            yield "weight SQNR", f"{sum(finite) / len(finite):.1f} dB on average, {min(finite):.1f} dB at worst"
        if self.plan.recipe.algorithm != "rtn":
            yield "algorithm", self.pick.why if self.pick else self.plan.recipe.algorithm
        read = f", {self.source_bytes / 1e9 / self.seconds:.2f} GB/s read" if self.streamed else ""
        yield "time", f"{self.seconds:.2f} s{read}"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self.facts())
        return f"<table>{rows}</table>"


def nonfinite(checkpoint: Checkpoint, job: Plan, crew: Crew) -> set[str]:
    """Names of tensors to quantize that hold NaN or Inf."""
    buffers = crew.buffers()

    def scan(tensor: TensorPlan, stop: Event) -> str | None:
        amax = 0.0
        for band in read_bands(checkpoint, tensor.source, buffers, stop):
            amax = max(amax, _finite_or_inf(band))
        return None if np.isfinite(amax) else tensor.source.name

    return {name for name in crew.run(scan, job.quantized) if name}


def _finite_or_inf(band: Weights) -> float:
    try:
        return absmax(band)
    except FormatError:
        return float("inf")


@dataclass(frozen=True, slots=True)
class _Done:
    """What became of one tensor."""

    name: str
    source_sha256: str
    loss: TensorLoss | None = None
    uncalibrated: bool = False  # the texts never reached it

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        sqnr = None if self.loss is None else self.loss.sqnr_db
        return {"source_sha256": self.source_sha256, "sqnr_db": sqnr, "uncalibrated": self.uncalibrated}

    @classmethod
    def noted(cls, name: str, noted: Mapping[str, Any]) -> "_Done":
        """From what `to_json` gave."""
        sqnr = noted["sqnr_db"]
        loss = None if sqnr is None else TensorLoss(name, sqnr)
        return cls(name, noted["source_sha256"], loss, uncalibrated=noted["uncalibrated"])


@dataclass(frozen=True, slots=True)
class _Conforming:
    """Another tool's arithmetic in an algorithm's place."""

    tool: conform.Tool
    block: Block

    def quantize(self, w: Weights, *, rule: ScaleRule | None = None, tensor_scale: float | None = None) -> QTensor:
        return self.tool.quantize(self.block, w, rule=rule, tensor_scale=tensor_scale)


class _Ready:
    """Algorithms prepared for the layers of one fused group, which have one input: once for each kind of block."""

    def __init__(self, calibration: Calibration, prepare: Callable[[Block, Statistics | None], Prepared]) -> None:
        self._calibration = calibration
        self._prepare = prepare
        self._ready: dict[Block, tuple[Prepared, bool]] = {}

    def for_tensor(self, tensor: TensorPlan, block: Block) -> tuple[Prepared, bool]:
        """The algorithm for ``tensor``, and whether there are statistics of its inputs."""
        if block not in self._ready:
            statistics = self._calibration.of(tensor.source)
            self._ready[block] = self._prepare(block, statistics), statistics is not None
        return self._ready[block]


@dataclass(frozen=True, slots=True)
class _Group:
    """The tensors of a fused group, which have a tensor scale in common, and those of them that are to be written."""

    tensors: list[TensorPlan]
    wanted: list[TensorPlan]


class Sink(Protocol):
    """Where weights go: `Output`, or one file of it."""

    def append(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the next bytes of some entries; one thread at a time for each entry."""
        ...

    def note(self, tensors: Mapping[str, Mapping[str, Any]], entries: Iterable[str]) -> None:
        """All of some ``tensors`` has been written, into ``entries``."""
        ...


class Quantizing:
    """One run of the job."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        job: Plan,
        calibration: Calibration,
        sink: Sink,
        *,
        crew: Crew,
        progress: ProgressCallback | None,
        log: JobLog,
    ) -> None:
        self.source = checkpoint
        self.checkpoint: Checkpoint = Folded(checkpoint, calibration.folding) if job.recipe.transforms else checkpoint
        self.job = job
        self.calibration = calibration
        self.algorithm = algorithms.get(job.recipe.algorithm)
        self.tool = conform.get(job.recipe.conform) if job.recipe.conform else None
        self.sink = sink
        self.crew = crew
        self.log = log
        self.buffers = crew.buffers()
        self.meter = Meter(sum(t.source.nbytes for t in job.tensors), log.watched(progress))

    def run(self, output: Output, shard_bytes: int, began: float) -> QuantizeResult:
        """Write all that is left to ``output``, which is the sink, and finish it."""
        output.open(self.job, shard_bytes)
        finished = {name: _Done.noted(name, noted) for name, noted in output.finished.items()}
        left = [tensor for tensor in self.job.tensors if tensor.source.name not in finished]
        self.meter.start(sum(tensor.source.nbytes for tensor in self.job.tensors if tensor.source.name in finished))
        with self.log.stage(f"quantize with {self.algorithm.name}", sum(tensor.source.nbytes for tensor in left)):
            done = finished | {one.name: one for one in self.write(left)}
        with self.log.stage("finish"):
            return self._finished(output, done, began)

    def write(self, wanted: Iterable[TensorPlan]) -> list[_Done]:
        """Write the tensors ``wanted``: all that is left, or those of one file."""
        names = {tensor.source.name for tensor in wanted}
        groups: dict[tuple[str, Scheme | None], list[TensorPlan]] = {}
        for tensor in self.job.tensors:
            name = tensor.group if self._shares(tensor) else tensor.source.name
            groups.setdefault((name, tensor.scheme), []).append(tensor)
        found = [
            _Group(group, left) for group in groups.values() if (left := [t for t in group if t.source.name in names])
        ]
        return [one for group in self.crew.run(self._group, found) for one in group]

    def _finished(self, output: Output, done: Mapping[str, _Done], began: float) -> QuantizeResult:
        """Write what comes after the weights."""
        if self.checkpoint is self.source:
            hashes = {name: one.source_sha256 for name, one in done.items()}
            digest = manifest.content_hash(self.source.tensors, hashes)
        else:
            digest = content_hash(self.source, self.crew)
        losses = tuple(loss for t in self.job.tensors if (loss := done[t.source.name].loss))
        warnings = (*self.job.warnings, *self._uncalibrated(done.values()))
        output.finish_weights(self.job)
        origin = card.origin(self.source.path, digest)
        facts = card.facts_of(
            self.job,
            origin,
            weight_files=output.weight_files,
            nbytes=output.nbytes,
            losses=losses,
            warnings=warnings,
        )
        output.finish(self.job, {"name": origin.spec, "sha256": digest}, card.render(facts))
        return QuantizeResult(
            path=output.path,
            plan=self.job,
            bytes=output.nbytes,
            source_bytes=sum(t.source.nbytes for t in self.job.tensors),
            seconds=perf_counter() - began,
            losses=losses,
            warnings=warnings,
        )

    def _shares(self, tensor: TensorPlan) -> bool:
        """Whether ``tensor`` has something in common with the others of its fused group."""
        if tensor.scheme is None:
            return False
        scaled = tensor.scheme.weight.tensor_scale and (self.tool is None or self.tool.fuses)
        return scaled or self.algorithm.needs == "hessian"

    def _uncalibrated(self, done: Iterable[_Done]) -> Iterator[str]:
        names = [one.name for one in done if one.uncalibrated]
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            yield f"the statistics do not reach {names[0]}{more}: rounded to nearest instead of {self.algorithm.name}"

    def _group(self, group: _Group, stop: Event) -> list[_Done]:
        """Write the tensors of one fused group that are wanted."""
        scale = self._tensor_scale(group.tensors, stop)
        done, ready = [], _Ready(self.calibration, self._prepared)
        for tensor in group.wanted:
            done.append(self._quantize(tensor, scale, ready, stop) if tensor.scheme else self._copy(tensor, stop))
            self.checkpoint.release(tensor.source.name)
        self.sink.note({one.name: one.to_json() for one in done}, (e.name for t in group.wanted for e in t.entries))
        return done

    def _tensor_scale(self, group: list[TensorPlan], stop: Event) -> float | None:
        scheme = group[0].scheme
        if scheme is None or not scheme.weight.tensor_scale:
            return None
        amax = 0.0
        for tensor in group:
            first_row = 0
            for band in self._bands(tensor, stop):
                try:
                    amax = max(amax, absmax(band))
                except FormatError:
                    raise _in_tensor(tensor, nonfinite_error(band, first_row)) from None
                first_row += len(band)
        if self.tool is not None:
            return self.tool.tensor_scale(scheme.weight, amax, DTYPES[group[0].source.dtype])
        return tensor_scale(scheme.weight, amax)

    def _prepared(self, block: Block, statistics: Statistics | None) -> Prepared:
        if self.tool is not None:
            return _Conforming(self.tool, block)
        known = self.algorithm.needs == "nothing" or statistics is not None
        return (self.algorithm if known else algorithms.get("rtn")).prepared(block, statistics)

    def _bands(self, tensor: TensorPlan, stop: Event) -> Iterator[Weights]:
        return read_bands(self.checkpoint, self.checkpoint.tensors[tensor.source.name], self.buffers, stop)

    def _copy(self, tensor: TensorPlan, stop: Event) -> _Done:
        source, (entry,) = hashlib.sha256(), tensor.entries
        for band in self._bands(tensor, stop):
            source.update(as_bytes(band))
            self.sink.append({entry.name: self.job.layout.copy(tensor.source, band)})
            self.meter.add(band.nbytes, tensor.source.name)
        return _Done(tensor.source.name, source.hexdigest())

    def _quantize(self, tensor: TensorPlan, scale: float | None, ready: _Ready, stop: Event) -> _Done:
        assert tensor.scheme is not None  # noqa: S101 - the caller has looked
        scheme, source, sqnr = tensor.scheme, hashlib.sha256(), Sqnr()
        rule = cast("ScaleRule | None", self.job.recipe.rule if scheme.name == self.job.recipe.scheme else None)
        algorithm, reached = ready.for_tensor(tensor, scheme.weight)
        input_scale = self.calibration.input_scale(tensor.source, scheme)
        first_row = 0
        for band in self._bands(tensor, stop):
            source.update(as_bytes(band))
            try:
                q = algorithm.quantize(band, rule=rule, tensor_scale=scale)
            except FormatError:
                raise _in_tensor(tensor, nonfinite_error(band, first_row)) from None
            self.sink.append(self.job.layout.write(tensor.source, scheme, q, first_row, input_scale))
            sqnr.add(band, dequantize(q))
            first_row += len(band)
            self.meter.add(len(band) * tensor.source.row_bytes, tensor.source.name)
        loss = TensorLoss(tensor.source.name, sqnr.db)
        return _Done(
            tensor.source.name, source.hexdigest(), loss, uncalibrated=self.algorithm.needs != "nothing" and not reached
        )


def _in_tensor(tensor: TensorPlan, error: HalveError) -> FormatError:
    return FormatError(f"{tensor.source.name}: {error}", hint=error.hint)
