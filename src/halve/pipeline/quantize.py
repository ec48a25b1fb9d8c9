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

from halve import schemes
from halve.algorithms import rtn
from halve.checkpoint import manifest
from halve.checkpoint.base import Checkpoint
from halve.checkpoint.source import open_checkpoint
from halve.errors import FormatError, HalveError, UnsupportedError
from halve.evaluate.sqnr import Sqnr
from halve.layouts.base import as_bytes
from halve.pipeline.bands import read_bands
from halve.pipeline.loss import TensorLoss
from halve.pipeline.output import Output
from halve.pipeline.plan import SHARD_BYTES, Plan, TensorPlan, default_layout, plan
from halve.pipeline.progress import Meter, ProgressCallback
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
    ignore: Iterable[str] = (),
    include: Iterable[str] = (),
    overrides: Iterable[tuple[str, str]] = (),
    on_nonfinite: OnNonfinite = "error",
) -> Plan:
    """What `quantize` with these arguments will do to ``checkpoint``; reads no weights. Raises as `quantize` does."""
    row = schemes.get(scheme)
    recipe = Recipe(
        scheme=scheme,
        layout=layout or default_layout(row),
        rule=check_rule(row.weight, cast("ScaleRule | None", rule)),
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
    ``progress`` is called with a `Progress`, never from two threads at once. The bytes written do not depend on
    ``threads``.

    Raises UnsupportedError, RecipeError or FormatError before anything is read where the job makes no sense,
    CheckpointError for a damaged source, FormatError for NaN or Inf in a weight, OutputError where ``out`` exists or
    the disk is full. After an error nothing is left at ``out``.
    """
    began = perf_counter()
    checkpoint = open_checkpoint(source) if isinstance(source, str | Path) else source
    try:
        job = make_plan(
            checkpoint,
            scheme,
            layout=layout,
            rule=rule,
            ignore=ignore,
            include=include,
            overrides=overrides,
            on_nonfinite=on_nonfinite,
        )
        with Output(Path(out), job.nbytes) as output:
            if on_nonfinite == "keep":
                job = job.keep(_nonfinite(checkpoint, job, threads))
            return _Quantizing(checkpoint, job, output, progress).run(shard_bytes, threads, began)
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


class _Quantizing:
    """One run of the job."""

    def __init__(self, checkpoint: Checkpoint, job: Plan, output: Output, progress: ProgressCallback | None) -> None:
        self.checkpoint = checkpoint
        self.job = job
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
        hashes = {name: one.source_sha256 for name, one in done.items()}
        source = {
            "name": self.checkpoint.path.resolve().name,
            "sha256": manifest.content_hash(self.checkpoint.tensors, hashes),
        }
        self.output.finish(self.job, source, card="")
        return QuantizeResult(
            path=self.output.path,
            plan=self.job,
            bytes=self.output.nbytes,
            source_bytes=sum(t.source.nbytes for t in self.job.tensors),
            seconds=perf_counter() - began,
            losses=tuple(loss for t in self.job.tensors if (loss := done[t.source.name].loss)),
            warnings=self.job.warnings,
        )

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
            for band in read_bands(self.checkpoint, tensor.source, self.buffers, stop):
                try:
                    amax = max(amax, absmax(band))
                except FormatError:
                    raise _in_tensor(tensor, nonfinite_error(band, first_row)) from None
                first_row += len(band)
        return tensor_scale(scheme.weight, amax)

    def _copy(self, tensor: TensorPlan, stop: Event) -> _Done:
        source, (entry,) = hashlib.sha256(), tensor.entries
        for band in read_bands(self.checkpoint, tensor.source, self.buffers, stop):
            source.update(as_bytes(band))
            self.output.append({entry.name: self.job.layout.copy(tensor.source, band)})
            self.meter.add(band.nbytes, tensor.source.name)
        return _Done(tensor.source.name, source.hexdigest())

    def _quantize(self, tensor: TensorPlan, scale: float | None, stop: Event) -> _Done:
        assert tensor.scheme is not None  # noqa: S101 - the caller has looked
        scheme, source, sqnr = tensor.scheme, hashlib.sha256(), Sqnr()
        rule = cast("ScaleRule | None", self.job.recipe.rule if scheme.name == self.job.recipe.scheme else None)
        first_row = 0
        for band in read_bands(self.checkpoint, tensor.source, self.buffers, stop):
            source.update(as_bytes(band))
            try:
                q = rtn.quantize(scheme.weight, band, rule=rule, tensor_scale=scale)
            except FormatError:
                raise _in_tensor(tensor, nonfinite_error(band, first_row)) from None
            self.output.append(self.job.layout.write(tensor.source, scheme, q, first_row))
            sqnr.add(band, dequantize(q))
            first_row += len(band)
            self.meter.add(band.nbytes, tensor.source.name)
        return _Done(tensor.source.name, source.hexdigest(), TensorLoss(tensor.source.name, sqnr.db))


def _in_tensor(tensor: TensorPlan, error: HalveError) -> FormatError:
    return FormatError(f"{tensor.source.name}: {error}", hint=error.hint)
