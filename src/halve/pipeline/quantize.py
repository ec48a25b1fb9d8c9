"""The main job: stream a checkpoint through a quantizer into a new folder.

Every tensor is read in bands of rows, quantized, packed and written at an offset that was known before the first read,
so memory does not grow with the model, and neither threads nor bands change a byte of the result. Schemes with a tensor
scale read each fused group twice; the second time it comes from the page cache.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from math import isinf
from pathlib import Path
from threading import Event
from time import perf_counter
from typing import Any, cast

import numpy as np

from halve import algorithms, schemes
from halve.checkpoint import manifest
from halve.checkpoint.base import Checkpoint
from halve.checkpoint.source import open_checkpoint
from halve.errors import FormatError, HalveError, UnsupportedError
from halve.evaluate.sqnr import Sqnr
from halve.layouts.base import as_bytes
from halve.pipeline.bands import content_hash, read_bands
from halve.pipeline.calibration import Calibration
from halve.pipeline.folded import Folded
from halve.pipeline.loss import TensorLoss
from halve.pipeline.output import Output
from halve.pipeline.plan import SHARD_BYTES, Plan, TensorPlan, default_layout, plan
from halve.pipeline.progress import Meter, ProgressCallback
from halve.pipeline.smoothing import fold
from halve.pipeline.statistics import StatisticsFile
from halve.pipeline.workers import Buffers, run
from halve.schemes.quantize import ScaleRule, Weights, absmax, check_rule, dequantize, nonfinite_error, tensor_scale
from halve.schemes.recipe import OnNonfinite, Recipe


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """What `quantize` wrote."""

    path: Path
    plan: Plan
    bytes: int  # of the weight files, as on disk
    source_bytes: int
    seconds: float
    losses: tuple[TensorLoss, ...]  # of quantized weights, in the order of the source
    warnings: tuple[str, ...]

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
        yield "time", f"{self.seconds:.2f} s, {self.source_bytes / 1e9 / self.seconds:.2f} GB/s read"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self.facts())
        return f"<table>{rows}</table>"


def make_plan(
    checkpoint: Checkpoint,
    scheme: str,
    *,
    layout: str | None = None,
    rule: str | None = None,
    algorithm: str | None = None,
    statistics: StatisticsFile | None = None,
    transforms: Iterable[str] = (),
    ignore: Iterable[str] = (),
    include: Iterable[str] = (),
    overrides: Iterable[tuple[str, str]] = (),
    on_nonfinite: OnNonfinite = "error",
) -> Plan:
    """What `quantize` with these arguments will do to ``checkpoint``; reads no weights. Raises as `quantize` does."""
    row = schemes.get(scheme)
    chosen = algorithms.get(algorithm or ("rtn" if statistics is None else "hessian_diag"))
    if chosen.needs != "nothing" and statistics is None:
        raise UnsupportedError(
            f"{chosen.name} needs the statistics of activations",
            hint="add --calibrate builtin, or --stats with a file of `halve calibrate`",
        )
    if chosen.needs == "hessian" and statistics is not None and not statistics.hessians:
        raise UnsupportedError(
            f"{chosen.name} needs Hessians, which {statistics.path} does not hold",
            hint="`halve calibrate --hessians` gathers them; hessian_diag needs none",
        )
    recipe = Recipe(
        scheme=scheme,
        layout=layout or default_layout(row),
        rule=check_rule(row.weight, cast("ScaleRule | None", rule)),
        algorithm=chosen.name,
        statistics="" if statistics is None else statistics.sha256,
        transforms=tuple(transforms),
        ignore=tuple(ignore),
        include=tuple(include),
        overrides=tuple(overrides),
        on_nonfinite=on_nonfinite,
    )
    if (quantized := checkpoint.quantization) is not None:
        named = quantized if isinstance(quantized, dict) else {}
        method = named.get("quant_method") or named.get("quant_algo") or "its config does not say how"
        raise UnsupportedError(
            f"{checkpoint.path} is already quantized ({method})",
            hint="start from the 16- or 32-bit original, or requantize it with `halve convert --scheme`",
        )
    return plan(checkpoint, recipe)


def quantize(
    source: str | Path | Checkpoint,
    out: str | Path,
    scheme: str,
    *,
    layout: str | None = None,
    rule: str | None = None,
    algorithm: str | None = None,
    stats: str | Path | None = None,
    transforms: Iterable[str] = (),
    ignore: Iterable[str] = (),
    include: Iterable[str] = (),
    overrides: Iterable[tuple[str, str]] = (),
    on_nonfinite: OnNonfinite = "error",
    shard_bytes: int = SHARD_BYTES,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
) -> QuantizeResult:
    """Quantize the checkpoint ``source`` (folder, GGUF file or ``org/name[@revision]``) into the new folder ``out``.

    ``scheme`` and ``layout`` are names from `halve schemes`; ``rule`` is a scale rule of the scheme; ``ignore`` and
    ``include`` name tensors or modules (``re:`` for a regular expression), ``overrides`` are pairs of such a name and
    another scheme for it. ``on_nonfinite="keep"`` leaves tensors that hold NaN or Inf, and what is fused with them, in
    their source type, at the price of one more read.

    ``stats`` is a file of statistics (`halve calibrate`, or an imatrix of llama.cpp). With it ``algorithm`` chooses
    codes for what the layers are fed, by default ``hessian_diag``, and schemes with static activations get their
    scales; ``transforms`` rewrite the model exactly, beforehand.

    ``progress`` is called with a `Progress`, never from two threads at once. The bytes written do not depend on
    ``threads``.

    Raises UnsupportedError, RecipeError or FormatError before anything is read where the job makes no sense,
    CheckpointError for a damaged source and for statistics of another model, FormatError for NaN or Inf in a weight,
    OutputError where ``out`` exists or the disk is full. After an error nothing is left at ``out``.
    """
    began = perf_counter()
    checkpoint = open_checkpoint(source) if isinstance(source, str | Path) else source
    try:
        statistics = None if stats is None else StatisticsFile(Path(stats))
        job = make_plan(
            checkpoint,
            scheme,
            layout=layout,
            rule=rule,
            algorithm=algorithm,
            statistics=statistics,
            transforms=transforms,
            ignore=ignore,
            include=include,
            overrides=overrides,
            on_nonfinite=on_nonfinite,
        )
        if statistics is not None:
            statistics.check(checkpoint)
        with Output(Path(out), job.nbytes) as output:
            if on_nonfinite == "keep":
                job = job.keep(_nonfinite(checkpoint, job, threads))
            folding = fold(checkpoint, statistics, job, threads)
            calibration = Calibration(statistics, folding)
            return _Quantizing(checkpoint, job, calibration, output, progress).run(shard_bytes, threads, began)
    finally:
        if checkpoint is not source:
            checkpoint.close()


def _nonfinite(checkpoint: Checkpoint, job: Plan, threads: int | None) -> set[str]:
    """Names of tensors to quantize that hold NaN or Inf."""
    buffers = Buffers()

    def scan(tensor: TensorPlan, stop: Event) -> str | None:
        amax = 0.0
        for band in read_bands(checkpoint, tensor.source, buffers, stop):
            amax = max(amax, _finite_or_inf(band))
        return None if np.isfinite(amax) else tensor.source.name

    return {name for name in run(scan, job.quantized, threads) if name}


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


class _Quantizing:
    """One run of the job."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        job: Plan,
        calibration: Calibration,
        output: Output,
        progress: ProgressCallback | None,
    ) -> None:
        self.source = checkpoint
        self.checkpoint: Checkpoint = Folded(checkpoint, calibration.folding) if job.recipe.transforms else checkpoint
        self.job = job
        self.calibration = calibration
        self.algorithm = algorithms.get(job.recipe.algorithm)
        self.output = output
        self.buffers = Buffers()
        self.meter = Meter(sum(t.source.nbytes for t in job.tensors), progress)

    def run(self, shard_bytes: int, threads: int | None, began: float) -> QuantizeResult:
        self.output.open(self.job, shard_bytes)
        groups: dict[str, list[TensorPlan]] = {}
        for tensor in self.job.tensors:
            shared = tensor.scheme and tensor.scheme.weight.tensor_scale
            groups.setdefault(tensor.group if shared else tensor.source.name, []).append(tensor)
        done = {one.name: one for group in run(self._group, groups.values(), threads) for one in group}
        if self.checkpoint is self.source:
            hashes = {name: one.source_sha256 for name, one in done.items()}
            digest = manifest.content_hash(self.source.tensors, hashes)
        else:
            digest = content_hash(self.source, threads)
        self.output.finish(self.job, {"name": self.source.path.resolve().name, "sha256": digest}, card="")
        return QuantizeResult(
            path=self.output.path,
            plan=self.job,
            bytes=self.output.nbytes,
            source_bytes=sum(t.source.nbytes for t in self.job.tensors),
            seconds=perf_counter() - began,
            losses=tuple(loss for t in self.job.tensors if (loss := done[t.source.name].loss)),
            warnings=(*self.job.warnings, *self._uncalibrated(done.values())),
        )

    def _uncalibrated(self, done: Iterable[_Done]) -> Iterator[str]:
        names = [one.name for one in done if one.uncalibrated]
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            yield f"the statistics do not reach {names[0]}{more}: rounded to nearest instead of {self.algorithm.name}"

    def _group(self, group: list[TensorPlan], stop: Event) -> list[_Done]:
        """Write the tensors of one fused group."""
        scale = self._tensor_scale(group, stop)
        done = []
        for tensor in group:
            done.append(self._quantize(tensor, scale, stop) if tensor.scheme else self._copy(tensor, stop))
            self.checkpoint.release(tensor.source.name)
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
        return tensor_scale(scheme.weight, amax)

    def _bands(self, tensor: TensorPlan, stop: Event) -> Iterator[Weights]:
        return read_bands(self.checkpoint, self.checkpoint.tensors[tensor.source.name], self.buffers, stop)

    def _copy(self, tensor: TensorPlan, stop: Event) -> _Done:
        source, (entry,) = hashlib.sha256(), tensor.entries
        for band in self._bands(tensor, stop):
            source.update(as_bytes(band))
            self.output.append({entry.name: self.job.layout.copy(tensor.source, band)})
            self.meter.add(band.nbytes, tensor.source.name)
        return _Done(tensor.source.name, source.hexdigest())

    def _quantize(self, tensor: TensorPlan, scale: float | None, stop: Event) -> _Done:
        assert tensor.scheme is not None  # noqa: S101 - the caller has looked
        scheme, source, sqnr = tensor.scheme, hashlib.sha256(), Sqnr()
        rule = cast("ScaleRule | None", self.job.recipe.rule if scheme.name == self.job.recipe.scheme else None)
        statistics = self.calibration.of(tensor.source)
        known = self.algorithm.needs == "nothing" or statistics is not None
        algorithm = (self.algorithm if known else algorithms.get("rtn")).prepared(scheme.weight, statistics)
        input_scale = self.calibration.input_scale(tensor.source, scheme)
        first_row = 0
        for band in self._bands(tensor, stop):
            source.update(as_bytes(band))
            try:
                q = algorithm.quantize(band, rule=rule, tensor_scale=scale)
            except FormatError:
                raise _in_tensor(tensor, nonfinite_error(band, first_row)) from None
            self.output.append(self.job.layout.write(tensor.source, scheme, q, first_row, input_scale))
            sqnr.add(band, dequantize(q))
            first_row += len(band)
            self.meter.add(len(band) * tensor.source.row_bytes, tensor.source.name)
        loss = TensorLoss(tensor.source.name, sqnr.db)
        return _Done(tensor.source.name, source.hexdigest(), loss, uncalibrated=not known)


def _in_tensor(tensor: TensorPlan, error: HalveError) -> FormatError:
    return FormatError(f"{tensor.source.name}: {error}", hint=error.hint)
