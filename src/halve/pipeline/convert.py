"""From one layout to another, keeping the codes: nothing is quantized again unless another scheme is asked for."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from html import escape
from math import isinf
from threading import Event
from time import perf_counter
from typing import Any

import numpy as np

from halve import formats, layouts
from halve.checkpoint import manifest
from halve.checkpoint.base import DTYPES, FLOATS, Checkpoint, TensorInfo
from halve.checkpoint.place import Place, held_writing, place
from halve.checkpoint.source import open_checkpoint
from halve.codecs import reference
from halve.errors import FormatError, UnsupportedError
from halve.evaluate.sqnr import Sqnr
from halve.layouts.base import Layout, Stored, is_kv_scale, kv_scales, module, owners
from halve.models.fused import fused_group
from halve.models.linear import why_kept
from halve.pipeline import card
from halve.pipeline.bands import content_hash, read_bands
from halve.pipeline.dequantized import Dequantized
from halve.pipeline.loss import TensorLoss
from halve.pipeline.memory import Memory
from halve.pipeline.output import Output
from halve.pipeline.plan import SHARD_BYTES, Plan, TensorPlan, able_layouts, assemble, check_model
from halve.pipeline.progress import Meter, ProgressCallback
from halve.pipeline.quantize import quantize
from halve.pipeline.resuming import described
from halve.pipeline.store import claim
from halve.pipeline.store import output as output_at
from halve.pipeline.workers import Cancelled, Crew, bands
from halve.pipeline.workspace import NAME
from halve.schemes import Block, Scheme
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import dequantize
from halve.schemes.recipe import Recipe

_TORCH = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True, slots=True)
class ConvertResult:
    """What `convert` wrote, and what that lost beyond what the source had lost already."""

    path: Place
    source_layout: str
    layout: str
    scheme: str
    bytes: int
    kept_codes: int  # weights whose codes and scales are the source's, bit for bit
    losses: tuple[TensorLoss, ...]  # of the other weights, against the source's values
    dequantized: tuple[str, ...]  # weights that the layout leaves in 16 bits
    seconds: float
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "path": str(self.path),
            "source_layout": self.source_layout,
            "layout": self.layout,
            "scheme": self.scheme,
            "bytes": self.bytes,
            "kept_codes": self.kept_codes,
            "losses": {loss.name: None if isinf(loss.sqnr_db) else round(loss.sqnr_db, 2) for loss in self.losses},
            "dequantized": list(self.dequantized),
            "seconds": round(self.seconds, 3),
            "warnings": list(self.warnings),
        }

    @property
    def loss(self) -> str:
        """The extra loss, in a line."""
        finite = [loss.sqnr_db for loss in self.losses if not isinf(loss.sqnr_db)]
        if not finite:
            return "none: every weight has the values it had"
        return f"{len(finite)} weights changed, by {min(finite):.1f} dB at worst"

    def facts(self) -> Iterator[tuple[str, str]]:
        """What to tell, a line each."""
        yield "written", str(self.path)
        yield "layout", f"{self.source_layout} -> {self.layout}, {self.scheme}"
        yield "weights", f"{self.bytes:,} bytes; {self.kept_codes} kept their codes"
        yield "extra loss", self.loss
        if self.dequantized:
            yield "dequantized", f"{len(self.dequantized)} weights, such as {self.dequantized[0]}"
        yield "time", f"{self.seconds:.2f} s"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self.facts())
        return f"<table>{rows}</table>"


def convert(
    source: str | Place,
    out: str | Place,
    layout: str,
    *,
    scheme: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    threads: int | None = None,
    memory: int | None = None,
    resume: bool = False,
    progress: ProgressCallback | None = None,
) -> ConvertResult:
    """Write the quantized checkpoint ``source`` into the new folder ``out`` in another ``layout``.

    Codes are kept where ``layout`` has the same element and block; a scale that its type cannot hold is rounded, and
    what that costs is measured. ``layout="dense"`` dequantizes (``scheme`` fp32, bf16 or fp16; the model's own type by
    default). Any other ``scheme`` than the source's quantizes its values again.

    ``memory`` and ``resume`` are those of `quantize`.

    Raises UnsupportedError for a source that is not quantized, and for schemes that ``layout`` cannot hold, naming
    layouts that can; else as `quantize` does.
    """
    began = perf_counter()
    out, target = place(out), layouts.get(layout)
    with closing(open_checkpoint(source)) as checkpoint:
        origin = layouts.detect(checkpoint)
        plain = Dequantized(checkpoint, origin)
        stored = plain.weights
        if not stored:
            raise UnsupportedError(
                f"{checkpoint.path} is not quantized", hint="`halve quantize --layout` writes every layout"
            )
        names = {weight.scheme.name for weight in stored.values()}
        if layout == "dense" or (scheme is not None and names != {scheme}):
            wanted = scheme or _TORCH.get(str(checkpoint.config.get("torch_dtype")), "bf16")
            again = quantize(
                plain,
                out,
                wanted,
                layout=layout,
                shard_bytes=shard_bytes,
                threads=threads,
                memory=memory,
                resume=resume,
                progress=progress,
            )
            return ConvertResult(
                path=again.path,
                source_layout=origin.name,
                layout=layout,
                scheme=wanted,
                bytes=again.bytes,
                kept_codes=0,
                losses=again.losses,
                dequantized=tuple(stored) if again.plan.scheme.dense else (),
                seconds=perf_counter() - began,
                warnings=again.warnings,
            )
        job = _plan(checkpoint, stored, target)
        asked = {"layout": layout, "scheme": scheme, "shard size": shard_bytes}
        if resume and (done := _finished(out, origin, job, shard_bytes)):
            return replace(done, seconds=perf_counter() - began)
        crew = Memory(memory, writing=held_writing(out)).crew(plain, job, threads, "nothing", hessians=False)
        with (
            claim(out, described(checkpoint, asked, ()), resume=resume) as workspace,
            output_at(workspace, out, job.nbytes) as output,
        ):
            return _Converting(plain, job, output, crew, progress).run(shard_bytes, began)


def _finished(out: Place, origin: Layout, job: Plan, shard_bytes: int) -> ConvertResult | None:
    """The result of this ``job`` where it was finished at ``out``; None where it was not."""
    if (out / NAME).exists() or not (out / manifest.NAME).exists():
        return None
    found = manifest.read(out)
    if found is None or found.recipe != manifest.recipe_json(job.recipe):
        return None
    return ConvertResult(
        path=out,
        source_layout=origin.name,
        layout=job.layout.name,
        scheme=" + ".join(name or "unnamed scheme" for name in job.schemes),
        bytes=job.file_bytes(shard_bytes),
        kept_codes=len(job.quantized),
        losses=(),
        dequantized=(),
        seconds=0.0,
        warnings=("it was finished before: nothing was done; `halve verify` proves it",),
    )


def _plan(checkpoint: Checkpoint, stored: Mapping[str, Stored], target: Layout) -> Plan:
    """What becomes of each tensor. Raises UnsupportedError where ``target`` cannot hold one."""
    check_model(checkpoint, target)
    owned = owners(stored.values())
    dtype = _dtype(checkpoint, owned)
    tensors: dict[str, TensorPlan] = {}
    kv = kv_scales(checkpoint)
    for name, info in checkpoint.tensors.items():
        if kv and is_kv_scale(name):
            continue
        if name not in owned:
            tensors[name] = _kept(target, info, "not quantized in the source")
        for weight in owned.get(name, ()):
            if weight.name not in tensors:
                tensors[weight.name] = _converted(checkpoint, target, weight, dtype)
    planned = tuple(tensors.values())
    used = Counter(t.scheme for t in planned if t.scheme)
    main = used.most_common(1)[0][0]
    recipe = Recipe(scheme=main.name or main.weight.element, layout=target.name)
    for attention in kv:
        target.kv_entries(attention)
    return replace(assemble(checkpoint, main, recipe, planned), kv=kv)


def _dtype(checkpoint: Checkpoint, owned: Collection[str]) -> str:
    """The model's own type: what most of its plain tensors have."""
    plain = [info.dtype for name, info in checkpoint.tensors.items() if name not in owned and info.dtype in FLOATS]
    return Counter(plain).most_common(1)[0][0] if plain else "BF16"


def _kept(target: Layout, info: TensorInfo, why: str) -> TensorPlan:
    return TensorPlan(info, None, why, module(info.name), (target.kept(info),))


def _converted(checkpoint: Checkpoint, target: Layout, weight: Stored, dtype: str) -> TensorPlan:
    info = TensorInfo(weight.name, dtype, weight.shape)
    why = why_kept(weight.name, 2)
    if why and target.linear_only:
        return _kept(target, info, f"dequantized: {why}")
    scheme = target.bind(weight.scheme, dtype)
    if refused := target.supports(scheme).refused:
        able = able_layouts(weight.scheme, checkpoint)
        raise UnsupportedError(
            f"layout {target.name} cannot hold {weight.name} ({weight.scheme.name or weight.block}): {refused}",
            hint=f"use --layout {' or '.join(able)}, or name a scheme that it holds with --scheme to quantize again",
        )
    try:
        entries = tuple(target.entries(info, scheme))
    except FormatError as error:
        raise UnsupportedError(
            f"layout {target.name} cannot hold {weight.name}: {error}", hint="name another layout or --scheme"
        ) from None
    return TensorPlan(info, scheme, "", fused_group(weight.name), entries)


class _Converting:
    """One run of the job."""

    def __init__(
        self, plain: Dequantized, job: Plan, output: Output, crew: Crew, progress: ProgressCallback | None
    ) -> None:
        self.plain = plain
        self.checkpoint = plain.checkpoint
        self.origin = plain.layout
        self.job = job
        self.output = output
        self.crew = crew
        self.buffers = crew.buffers()
        self.meter = Meter(sum(t.nbytes for t in job.tensors), progress)

    def run(self, shard_bytes: int, began: float) -> ConvertResult:
        self.output.open(self.job, shard_bytes)
        known = self.output.finished
        left = [tensor for tensor in self.job.tensors if tensor.source.name not in known]
        self.meter.start(sum(tensor.nbytes for tensor in self.job.tensors if tensor.source.name in known))
        lost = {name: noted["sqnr_db"] for name, noted in known.items()} | dict(self.crew.run(self._tensor, left))
        found = ((tensor.source.name, lost[tensor.source.name]) for tensor in self.job.tensors)
        changed = [TensorLoss(name, sqnr_db) for name, sqnr_db in found if sqnr_db is not None]
        self.output.finish_weights(self.job)
        origin = card.origin(self.checkpoint.path, content_hash(self.checkpoint, self.crew))
        facts = card.facts_of(
            self.job,
            origin,
            weight_files=self.output.weight_files,
            nbytes=self.output.nbytes,
            losses=changed,
            warnings=self.job.warnings,
            converted=self.origin.name,
        )
        self.output.finish(self.job, {"name": origin.spec, "sha256": origin.sha256}, card.render(facts))
        return ConvertResult(
            path=self.output.path,
            source_layout=self.origin.name,
            layout=self.job.layout.name,
            scheme=" + ".join(name or "unnamed scheme" for name in self.job.schemes),
            bytes=self.output.nbytes,
            kept_codes=len(self.job.quantized) - len(changed),
            losses=tuple(changed),
            dequantized=tuple(t.source.name for t in self.job.tensors if t.why.startswith("dequantized")),
            seconds=perf_counter() - began,
            warnings=self.job.warnings,
        )

    def _tensor(self, tensor: TensorPlan, stop: Event) -> tuple[str, float | None]:
        """Write a tensor; its name, and the SQNR in dB of a weight that stays quantized and has lost something."""
        name, sqnr_db = tensor.source.name, None
        if tensor.scheme:
            found = self._recode(tensor, tensor.scheme, stop)
            sqnr_db = None if isinf(found) else found
        else:
            self._copy(tensor, stop)
        self.output.note({name: {"sqnr_db": sqnr_db}}, (entry.name for entry in tensor.entries))
        self.meter.add(tensor.nbytes, name)
        return name, sqnr_db

    def _copy(self, tensor: TensorPlan, stop: Event) -> None:
        info, (entry,) = tensor.source, tensor.entries
        view = self.plain if info.name in self.plain.weights else self.checkpoint
        for band in read_bands(view, view.tensors[info.name], self.buffers, stop):
            plain = band.astype(DTYPES[info.dtype], copy=False)
            self.output.append({entry.name: self.job.layout.copy(info, plain)})

    def _recode(self, tensor: TensorPlan, scheme: Scheme, stop: Event) -> float:
        layout, weight, sqnr = self.job.layout, self.plain.weights[tensor.source.name], Sqnr()
        input_scale = self.origin.input_scale(self.checkpoint, weight)
        for start, end in bands(weight.shape[0], weight.shape[1] * 2, self.crew.band_bytes):
            if stop.is_set():
                raise Cancelled
            q = self.origin.read(self.checkpoint, weight, start, end)
            new = recode(q, scheme.weight)
            self.output.append(layout.write(tensor.source, scheme, new, start, input_scale))
            if not np.array_equal(q.scales, new.scales):
                sqnr.add(dequantize(q), dequantize(new))
        return sqnr.db


def recode(q: QTensor, block: Block) -> QTensor:
    """``q`` with its scales in the type that ``block`` stores; codes stay.

    Raises UnsupportedError where anything but the type of the scales differs.
    """
    if replace(q.block, scale=block.scale) != block:
        raise UnsupportedError(f"codes of {q.block} are no codes of {block}", hint="name a --scheme to quantize again")
    if q.block.scale == block.scale or block.scale is None:
        return q
    stored = formats.get(block.scale)
    return replace(q, block=block, scales=reference.decode(stored, reference.encode(stored, q.scales)))
