"""Reading a tensor band by band."""

import hashlib
from collections.abc import Iterator
from threading import Event

import numpy as np

from halve.checkpoint import manifest
from halve.checkpoint.base import DTYPES, Checkpoint, TensorInfo
from halve.layouts.base import as_bytes
from halve.pipeline.workers import BAND_ROWS, Buffers, Cancelled, Crew, bands
from halve.schemes.quantize import Weights

_LANES = 16  # of the sums in `halve.evaluate.sqnr`: bands must be whole multiples, or their size would show


def multiple(info: TensorInfo) -> int:
    """What the rows of a band of ``info`` are a multiple of.

    A row of a stack is a matrix: those of experts take up to 300 MB each, and are no layout's tiles.
    """
    return 1 if len(info.shape) > 2 and info.columns % _LANES == 0 else BAND_ROWS


def read_bands(checkpoint: Checkpoint, info: TensorInfo, buffers: Buffers, stop: Event) -> Iterator[Weights]:
    """Bands of a tensor as matrices; each is valid until the next. Raises Cancelled once ``stop`` is set."""
    for start, end in bands(info.rows, info.row_bytes, buffers.band_bytes, multiple(info)):
        if stop.is_set():
            raise Cancelled
        data = checkpoint.read(info.name, start, end, buffers.get((end - start) * info.row_bytes))
        yield np.frombuffer(data, DTYPES[info.dtype]).reshape(end - start, info.columns)


def content_hash(checkpoint: Checkpoint, crew: Crew) -> str:
    """Hash of all weights of ``checkpoint``, which are read for it."""
    buffers = crew.buffers()

    def digest(info: TensorInfo, stop: Event) -> tuple[str, str]:
        sha256 = hashlib.sha256()
        for band in read_bands(checkpoint, info, buffers, stop):
            sha256.update(as_bytes(band))
        checkpoint.release(info.name)
        return info.name, sha256.hexdigest()

    tensors = checkpoint.tensors
    return manifest.content_hash(tensors, dict(crew.run(digest, tensors.values())))
