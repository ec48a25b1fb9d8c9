"""Reading a tensor band by band."""

import hashlib
from collections.abc import Iterator
from threading import Event

import numpy as np

from halve.checkpoint import manifest
from halve.checkpoint.base import DTYPES, Checkpoint, TensorInfo
from halve.layouts.base import as_bytes
from halve.pipeline.workers import Buffers, Cancelled, bands, run
from halve.schemes.quantize import Weights


def read_bands(checkpoint: Checkpoint, info: TensorInfo, buffers: Buffers, stop: Event) -> Iterator[Weights]:
    """Bands of a tensor as matrices; each is valid until the next. Raises Cancelled once ``stop`` is set."""
    for start, end in bands(info.rows, info.row_bytes):
        if stop.is_set():
            raise Cancelled
        data = checkpoint.read(info.name, start, end, buffers.get((end - start) * info.row_bytes))
        yield np.frombuffer(data, DTYPES[info.dtype]).reshape(end - start, info.columns)


def content_hash(checkpoint: Checkpoint, threads: int | None) -> str:
    """Hash of all weights of ``checkpoint``, which are read for it."""
    buffers = Buffers()

    def digest(info: TensorInfo, stop: Event) -> tuple[str, str]:
        sha256 = hashlib.sha256()
        for band in read_bands(checkpoint, info, buffers, stop):
            sha256.update(as_bytes(band))
        checkpoint.release(info.name)
        return info.name, sha256.hexdigest()

    tensors = checkpoint.tensors
    return manifest.content_hash(tensors, dict(run(digest, tensors.values(), threads)))
