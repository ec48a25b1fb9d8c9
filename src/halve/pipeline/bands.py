"""Reading a tensor band by band."""

from collections.abc import Iterator
from threading import Event

import numpy as np

from halve.checkpoint.base import DTYPES, Checkpoint, TensorInfo
from halve.pipeline.workers import Buffers, Cancelled, bands
from halve.schemes.quantize import Weights


def read_bands(checkpoint: Checkpoint, info: TensorInfo, buffers: Buffers, stop: Event) -> Iterator[Weights]:
    """Bands of a tensor as matrices; each is valid until the next. Raises Cancelled once ``stop`` is set."""
    for start, end in bands(info.rows, info.row_bytes):
        if stop.is_set():
            raise Cancelled
        data = checkpoint.read(info.name, start, end, buffers.get((end - start) * info.row_bytes))
        yield np.frombuffer(data, DTYPES[info.dtype]).reshape(end - start, info.columns)
