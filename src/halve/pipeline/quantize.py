"""The main job: stream a checkpoint through a quantizer into a new folder.

Every tensor is read in bands of rows, quantized, packed and written at an offset that was known before the first read,
so memory does not grow with the model, and neither threads nor bands change a byte of the result. Schemes with a tensor
scale read each fused group twice; the second time it comes from the page cache.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from threading import Event
from time import perf_counter
from typing import Any, cast

import numpy as np

from halve import schemes
from halve.algorithms import rtn
from halve.checkpoint import manifest
from halve.checkpoint.base import DTYPES, Checkpoint, TensorInfo
from halve.checkpoint.hf import INDEX, SINGLE
from halve.checkpoint.safetensors import ShardWriter
from halve.checkpoint.source import open_checkpoint
from halve.errors import FormatError, HalveError, OutputError, UnsupportedError
from halve.layouts.base import as_bytes, module
from halve.models.fused import fused_group
from halve.models.linear import OUTPUT_HEAD, why_kept
from halve.pipeline.plan import METADATA, NOT_FINITE, SHARD_BYTES, Plan, TensorPlan, default_layout, plan
from halve.pipeline.progress import Meter, ProgressCallback
from halve.pipeline.workers import Buffers, Cancelled, bands, run
from halve.schemes.quantize import ScaleRule, Weights, absmax, check_rule, nonfinite_error, tensor_scale
from halve.schemes.recipe import OnNonfinite, Recipe

LOCK = ".halve-job"  # in a folder that a job is writing into


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """What `quantize` wrote."""

    path: Path
    plan: Plan
    bytes: int  # of the weight files, as on disk
    source_bytes: int
    seconds: float
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
            "warnings": list(self.warnings),
        }

    def facts(self) -> Iterator[tuple[str, str]]:
        """What to tell, a line each."""
        yield "written", str(self.path)
        yield "scheme", f"{self.plan.scheme.name} as {self.plan.recipe.layout}"
        yield "weights", f"{self.bytes:,} bytes, {100 * self.bytes / max(self.source_bytes, 1):.1f} % of the source"
        yield "tensors", self.plan.summary
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
        on_nonfinite=on_nonfinite,
    )
    if (quantized := checkpoint.quantization) is not None:
        named = quantized if isinstance(quantized, dict) else {}
        method = named.get("quant_method") or named.get("quant_algo") or "its config does not say how"
        raise UnsupportedError(
            f"{checkpoint.path} is already quantized ({method})", hint="start from the 16- or 32-bit original"
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
    on_nonfinite: OnNonfinite = "error",
    shard_bytes: int = SHARD_BYTES,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
) -> QuantizeResult:
    """Quantize the checkpoint ``source`` (folder, GGUF file or ``org/name[@revision]``) into the new folder ``out``.

    ``scheme`` and ``layout`` are names from `halve schemes`; ``rule`` is a scale rule of the scheme; ``ignore`` and
    ``include`` name tensors or modules (``re:`` for a regular expression). ``on_nonfinite="keep"`` leaves tensors that
    hold NaN or Inf, and what is fused with them, in their source type, at the price of one more read.
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
            checkpoint, scheme, layout=layout, rule=rule, ignore=ignore, include=include, on_nonfinite=on_nonfinite
        )
        out = Path(out)
        created = _claim(out, job)
        try:
            if on_nonfinite == "keep":
                job = job.keep(_nonfinite(checkpoint, job, threads))
            return _Writer(checkpoint, job, out, shard_bytes, progress).write(threads, began)
        except BaseException:
            _abandon(out, created=created)
            raise
    finally:
        if checkpoint is not source:
            checkpoint.close()


def _claim(out: Path, job: Plan) -> bool:
    """Make the folder ``out``; whether it was new. Raises OutputError where it is in use or the disk is too small."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} exists and is not empty", hint="choose another folder, or remove it first")
    created = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / LOCK).touch(exist_ok=False)
        free = shutil.disk_usage(out).free
    except FileExistsError:
        raise OutputError(
            f"{out}: another job is writing there",
            hint=f"choose another folder; where no job runs, remove {out / LOCK}",
        ) from None
    except OSError as error:
        raise OutputError(f"{out}: {error.strerror}", hint="choose a folder that you may write to") from None
    if free < job.nbytes:
        _abandon(out, created=created)
        raise OutputError(
            f"{out}: {job.nbytes / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free",
            hint="free some space, choose another disk, or a scheme of fewer bits",
        )
    return created


def _abandon(out: Path, *, created: bool) -> None:
    """Remove what the job has written: everything, for it held the lock of an empty folder."""
    for path in out.iterdir():
        with suppress(OSError):
            path.unlink()
    if created:
        with suppress(OSError):
            out.rmdir()


def _nonfinite(checkpoint: Checkpoint, job: Plan, threads: int | None) -> set[str]:
    """Names of tensors to quantize that hold NaN or Inf."""
    buffers = Buffers()

    def scan(tensor: TensorPlan, stop: Event) -> str | None:
        amax = 0.0
        for band in _read_bands(checkpoint, tensor.source, buffers, stop):
            amax = max(amax, _finite_or_inf(band))
        return None if np.isfinite(amax) else tensor.source.name

    return {name for name in run(scan, job.quantized, threads) if name}


def _finite_or_inf(band: Weights) -> float:
    try:
        return absmax(band)
    except FormatError:
        return float("inf")


def _read_bands(checkpoint: Checkpoint, info: TensorInfo, buffers: Buffers, stop: Event) -> Iterable[Weights]:
    """Bands of a tensor as matrices; each is valid until the next is asked for."""
    for start, end in bands(info.rows, info.row_bytes):
        if stop.is_set():
            raise Cancelled
        data = checkpoint.read(info.name, start, end, buffers.get((end - start) * info.row_bytes))
        yield np.frombuffer(data, DTYPES[info.dtype]).reshape(end - start, info.columns)


class _Writer:
    """One run of the job: which worker wrote what, and the hashes of it."""

    def __init__(
        self, checkpoint: Checkpoint, job: Plan, out: Path, shard_bytes: int, progress: ProgressCallback | None
    ) -> None:
        self.checkpoint = checkpoint
        self.job = job
        self.out = out
        self.layout = job.layout
        self.buffers = Buffers()
        self.meter = Meter(sum(t.source.nbytes for t in job.tensors), progress)
        shards = job.shards(shard_bytes)
        self.shards: list[ShardWriter] = []
        try:
            for i, shard in enumerate(shards):
                entries = [entry for tensor in shard for entry in tensor.entries]
                self.shards.append(ShardWriter(out / _shard_name(i, len(shards)), entries, METADATA))
        except BaseException:
            self._discard()
            raise
        self.shard_of = {
            t.source.name: writer for shard, writer in zip(shards, self.shards, strict=True) for t in shard
        }

    def write(self, threads: int | None, began: float) -> QuantizeResult:
        groups: dict[str, list[TensorPlan]] = {}
        for tensor in self.job.tensors:
            shared = self.job.scheme.weight.tensor_scale and tensor.action == "quantize"
            groups.setdefault(tensor.group if shared else tensor.source.name, []).append(tensor)
        try:
            done = run(self._group, groups.values(), threads)
            for shard in self.shards:
                shard.finish()
        except BaseException:
            self._discard()
            raise
        source_hashes = {name: digest for hashes, _ in done for name, digest in hashes.items()}
        written = {name: digest for _, hashes in done for name, digest in hashes.items()}
        warnings = self._write_files(source_hashes, written)
        return QuantizeResult(
            path=self.out,
            plan=self.job,
            bytes=sum(shard.path.stat().st_size for shard in self.shards),
            source_bytes=sum(t.source.nbytes for t in self.job.tensors),
            seconds=perf_counter() - began,
            warnings=warnings,
        )

    def _discard(self) -> None:
        for shard in self.shards:
            shard.discard()

    def _group(self, group: list[TensorPlan], stop: Event) -> tuple[dict[str, str], dict[str, str]]:
        """Write the tensors of one fused group; hashes of what was read and of what was written, by name."""
        source_hashes: dict[str, str] = {}
        written: dict[str, str] = {}
        scale = self._tensor_scale(group, stop) if group[0].action == "quantize" else None
        for tensor in group:
            name = tensor.source.name
            if tensor.action == "keep":
                source_hashes[name] = written[name] = self._copy(tensor, stop)
            else:
                source_hashes[name], hashes = self._quantize(tensor, scale, stop)
                written |= hashes
            self.checkpoint.release(name)
        return source_hashes, written

    def _tensor_scale(self, group: list[TensorPlan], stop: Event) -> float | None:
        if not self.job.scheme.weight.tensor_scale:
            return None
        amax = 0.0
        for tensor in group:
            first_row = 0
            for band in _read_bands(self.checkpoint, tensor.source, self.buffers, stop):
                try:
                    amax = max(amax, absmax(band))
                except FormatError:
                    raise _in_tensor(tensor, nonfinite_error(band, first_row)) from None
                first_row += len(band)
        return tensor_scale(self.job.scheme.weight, amax)

    def _copy(self, tensor: TensorPlan, stop: Event) -> str:
        digest = hashlib.sha256()
        shard = self.shard_of[tensor.source.name]
        offset = 0
        for band in _read_bands(self.checkpoint, tensor.source, self.buffers, stop):
            data = as_bytes(band)
            digest.update(data)
            shard.write(tensor.source.name, offset, data)
            offset += len(data)
            self.meter.add(len(data), tensor.source.name)
        return digest.hexdigest()

    def _quantize(self, tensor: TensorPlan, scale: float | None, stop: Event) -> tuple[str, dict[str, str]]:
        source = hashlib.sha256()
        digests = {entry.name: hashlib.sha256() for entry in tensor.entries}
        offsets = dict.fromkeys(digests, 0)
        shard = self.shard_of[tensor.source.name]
        rule = cast("ScaleRule | None", self.job.recipe.rule)
        first_row = 0
        for band in _read_bands(self.checkpoint, tensor.source, self.buffers, stop):
            source.update(as_bytes(band))
            try:
                q = rtn.quantize(self.job.scheme.weight, band, rule=rule, tensor_scale=scale)
            except FormatError:
                raise _in_tensor(tensor, nonfinite_error(band, first_row)) from None
            for name, array in self.layout.write(tensor.source, self.job.scheme, q, first_row).items():
                data = as_bytes(array)
                digests[name].update(data)
                shard.write(name, offsets[name], data)
                offsets[name] += len(data)
            first_row += len(band)
            self.meter.add(band.nbytes, tensor.source.name)
        return source.hexdigest(), {name: digest.hexdigest() for name, digest in digests.items()}

    def _write_files(self, source_hashes: dict[str, str], written: dict[str, str]) -> tuple[str, ...]:
        """Index, config, tokenizer files and manifest; warnings about what is missing."""
        files, warnings = self._auxiliary()
        config = {k: v for k, v in self.checkpoint.config.items() if k != "quantization_config"}
        config |= self.layout.config(self.job.scheme, [module(t.source.name) for t in self.job.quantized], self._kept())
        files["config.json"] = (json.dumps(config, indent=2) + "\n").encode()
        located = {entry.name: shard.path.name for shard in self.shards for entry in shard.entries}
        if len(self.shards) > 1:
            index = {"metadata": {"total_size": self.job.nbytes}, "weight_map": located}
            files[INDEX] = (json.dumps(index, indent=1) + "\n").encode()
        for name, content in files.items():
            self._put(name, content)
        facts = manifest.Manifest(
            source={
                "name": self.checkpoint.path.resolve().name,
                "sha256": manifest.content_hash(self.checkpoint.tensors, source_hashes),
            },
            recipe=manifest.recipe_json(self.job.recipe),
            scheme=manifest.scheme_json(self.job.scheme),
            files={s.path.name: {"bytes": s.path.stat().st_size, "header_sha256": s.header_sha256} for s in self.shards}
            | {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in sorted(files.items())},
            tensors={
                e.name: {"file": located[e.name], "sha256": written[e.name]}
                for t in self.job.tensors
                for e in t.entries
            },
            not_finite=[t.source.name for t in self.job.tensors if t.why == NOT_FINITE],
        )
        self._put(manifest.NAME, facts.serialised())
        (self.out / LOCK).unlink()
        return (*warnings, *self._doubts())

    def _put(self, name: str, content: bytes) -> None:
        part = self.out / f"{name}.part"
        try:
            part.write_bytes(content)
            part.replace(self.out / name)
        except OSError as error:
            raise OutputError(
                f"{self.out / name}: cannot be written: {error.strerror}",
                hint="free some space, or choose another disk",
            ) from None

    def _doubts(self) -> Iterator[str]:
        """What may keep engines from loading the result."""
        if "auto_map" in self.checkpoint.config:
            yield "config.json names Python code (auto_map), which is not copied: copy it from the source yourself"
        quantized = {t.group for t in self.job.quantized}
        for tensor in self.job.tensors:
            group = fused_group(tensor.source.name)
            if tensor.why.startswith("--ignore") and group in quantized:
                yield f"{tensor.source.name} is ignored, others of {group} are not: engines that fuse them refuse it"

    def _kept(self) -> list[str]:
        """Linear modules that engines must not expect to be quantized.

        The output head of a model with tied embeddings has no tensor of its own and is a linear module all the same.
        """
        reasons = ("", "output head", "router", "vision or audio")
        kept = [t.source for t in self.job.tensors if t.action == "keep"]
        matrices = [info for info in kept if info.name.endswith(".weight") and len(info.shape) == 2]
        names = [module(info.name) for info in matrices if why_kept(info.name, 2) in reasons]
        return names if f"{OUTPUT_HEAD}.weight" in self.checkpoint.tensors else [*names, OUTPUT_HEAD]

    def _auxiliary(self) -> tuple[dict[str, bytes], tuple[str, ...]]:
        try:
            files = self.checkpoint.auxiliary()
        except UnsupportedError as error:
            return {}, (f"no tokenizer files are written: {error}",)
        if not any(name.startswith("tokenizer") or name == "vocab.json" for name in files):
            return files, (f"{self.checkpoint.path} has no tokenizer files; engines will ask for them",)
        return files, ()


def _in_tensor(tensor: TensorPlan, error: HalveError) -> FormatError:
    return FormatError(f"{tensor.source.name}: {error}", hint=error.hint)


def _shard_name(index: int, count: int) -> str:
    return SINGLE if count == 1 else f"model-{index + 1:05d}-of-{count:05d}.safetensors"
