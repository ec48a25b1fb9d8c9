"""Look into a checkpoint: which tensors, how they are stored, and what their numbers are like."""

import re
from collections.abc import Iterator
from contextlib import closing
from math import prod
from threading import Event

import numpy as np
from numpy.typing import NDArray

from halve import layouts
from halve.checkpoint.base import DTYPES, FLOATS, Checkpoint, TensorInfo
from halve.checkpoint.place import Place
from halve.checkpoint.source import open_checkpoint
from halve.evaluate.inspection import InspectedTensor, Inspection
from halve.evaluate.weights import CodeCount, CodeUse, Size, Spread, Tails
from halve.layouts.base import Layout, Stored
from halve.models.linear import why_kept
from halve.pipeline import workers
from halve.pipeline.progress import Meter, ProgressCallback
from halve.pipeline.workers import Buffers, Cancelled, run
from halve.schemes import Scheme
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import dequantize


def inspect(
    path: str | Place,
    *,
    values: bool = False,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
) -> Inspection:
    """Look into a checkpoint (folder, GGUF file or ``org/name[@revision]``); without ``values`` reads no weight.

    With ``values`` every weight is read twice, in bands on ``threads`` threads, so memory does not grow with the model:
    how far its numbers lie from zero, and of a quantized one what use it makes of its codes. ``progress`` is called
    with a `Progress`, never from two threads at once.

    Raises CheckpointError where it cannot be opened or ends early, or where config and tensors contradict each other.
    """
    with closing(open_checkpoint(path)) as checkpoint:
        layout = layouts.detect(checkpoint)
        quantized = layout.open(checkpoint)
        owned = {entry for weight in quantized.values() for entry in weight.entries}
        plain = {name: info for name, info in checkpoint.tensors.items() if name not in owned}
        names = sorted((*quantized, *plain), key=_natural)
        found: dict[str, tuple[Spread | None, CodeUse | None]] = {}
        if values:
            reading = _Reading(checkpoint, layout, progress)
            jobs = [quantized.get(name) or plain[name] for name in names]
            found = dict(zip(names, run(reading.weight, jobs, threads), strict=True))
        architectures = checkpoint.config.get("architectures")
        return Inspection(
            path=checkpoint.path,
            architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "unknown",
            layout="gguf" if checkpoint.path.suffix == ".gguf" else layout.name,
            tensors=tuple(
                _listed(checkpoint, name, quantized.get(name), *found.get(name, (None, None))) for name in names
            ),
        )


def _listed(
    checkpoint: Checkpoint, name: str, weight: Stored | None, spread: Spread | None, codes: CodeUse | None
) -> InspectedTensor:
    shape = weight.shape if weight else checkpoint.tensors[name].shape
    entries = weight.entries if weight else (name,)
    parts = [(entry, *checkpoint.stored(entry), checkpoint.tensors[entry].shape) for entry in entries]
    size = sum(nbytes for _, _, nbytes, _ in parts)
    dtype = parts[0][1]
    return InspectedTensor(
        name=name,
        shape=shape,
        stored=tuple(f"{entry} {kind} {list(part)}" for entry, kind, _, part in parts),
        bytes=size,
        bpw=8 * size / max(prod(shape), 1),
        quantized=weight is not None or dtype not in DTYPES,  # what safetensors has no name for is a block of llama.cpp
        element=weight.block.element if weight else FLOATS.get(dtype, dtype),
        scheme=_called(weight.scheme) if weight else "",
        note="" if weight else why_kept(name, len(shape)),
        spread=spread,
        codes=codes,
    )


def _called(scheme: Scheme) -> str:
    """The name of ``scheme``, or what it is."""
    size = scheme.weight.block_size
    return scheme.name or f"{scheme.weight.element} per {'x'.join(map(str, size)) if isinstance(size, tuple) else size}"


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that puts layer 2 before layer 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


class _Reading:
    """One run over all values."""

    def __init__(self, checkpoint: Checkpoint, layout: Layout, progress: ProgressCallback | None) -> None:
        self.checkpoint = checkpoint
        self.layout = layout
        self.buffers = Buffers()
        self.meter = Meter(2 * sum(info.nbytes for info in checkpoint.tensors.values()), progress)

    def weight(self, job: Stored | TensorInfo, stop: Event) -> tuple[Spread | None, CodeUse | None]:
        """What the numbers of one weight are like."""
        names = job.entries if isinstance(job, Stored) else (job.name,)
        nbytes = sum(self.checkpoint.tensors[name].nbytes for name in names)
        if isinstance(job, TensorInfo) and not job.dtype.startswith(("F", "BF")):
            self.meter.add(2 * nbytes, job.name)
            return None, None
        size, codes = Size(), CodeCount(job.block, job.shape) if isinstance(job, Stored) else None
        for x, q in self._values(job, stop):
            size.add(x)
            if codes and q:
                codes.add(q, x)
        self.meter.add(nbytes, job.name)
        tails = Tails(size)
        for x, _ in self._values(job, stop):
            tails.add(x)
        self.meter.add(nbytes, job.name)
        for name in names:
            self.checkpoint.release(name)
        return tails.spread(), codes.use() if codes else None

    def _values(self, job: Stored | TensorInfo, stop: Event) -> Iterator[tuple[NDArray[np.float32], QTensor | None]]:
        """Bands of a weight: what it stands for, and the codes where there are some."""
        if isinstance(job, TensorInfo):
            return ((band, None) for band in self._plain(job, stop))
        return ((dequantize(q), q) for q in self._codes(job, stop))

    def _codes(self, weight: Stored, stop: Event) -> Iterator[QTensor]:
        for start, end in workers.bands(weight.shape[0], weight.shape[1] * 2):
            if stop.is_set():
                raise Cancelled
            yield self.layout.read(self.checkpoint, weight, start, end)

    def _plain(self, info: TensorInfo, stop: Event) -> Iterator[NDArray[np.float32]]:
        # Rows of packed experts are matrices: no multiple of 128 of them would fit in memory, and none is needed here.
        step = max(workers.BAND_BYTES // max(info.row_bytes, 1), 1)
        for start in range(0, info.rows, step):
            if stop.is_set():
                raise Cancelled
            end = min(start + step, info.rows)
            data = self.checkpoint.read(info.name, start, end, self.buffers.get((end - start) * info.row_bytes))
            with np.errstate(over="ignore", invalid="ignore"):  # float64 beyond float32's range becomes Inf
                yield np.frombuffer(data, DTYPES[info.dtype]).astype(np.float32)
