"""Tensors stored [in, out] where a job goes through rows of [out, in]: GPTQ's and AWQ's.

Rows of the weight are columns of such a tensor, and columns do not lie side by side. Both ways go through strips of at
most `STRIP_BYTES`, so that a tensor is gone through once, or, where it is larger, once a strip; never once a band.
"""

from collections.abc import Collection, Mapping
from math import prod
from threading import local
from typing import Any, Protocol
from weakref import ReferenceType, ref

import numpy as np
from numpy.typing import NDArray

from halve.checkpoint.base import DTYPES, Checkpoint, TensorInfo, read_array
from halve.checkpoint.place import Place

STRIP_BYTES = 32 << 20
_CHUNK_BYTES = 1 << 20


class Columns(local):
    """Reads ranges of columns. Remembers the last strip of each kind of tensor, for each thread."""

    def __init__(self) -> None:
        self._owner: ReferenceType[Checkpoint] | None = None
        self._strips: dict[
            str, tuple[str, int, NDArray[Any]]
        ] = {}  # last part of the name -> name, first column, strip

    def read(self, checkpoint: Checkpoint, name: str, start: int, stop: int) -> NDArray[Any]:
        """Columns ``start..stop`` of the matrix ``name``, as its rows x ``stop - start``; valid until the next."""
        if self._owner is None or self._owner() is not checkpoint:
            self._owner, self._strips = ref(checkpoint), {}
        kind = name.rpartition(".")[2]
        held, first, strip = self._strips.get(kind, ("", 0, np.empty((0, 0))))
        if held != name or not first <= start <= stop <= first + strip.shape[1]:
            info = checkpoint.tensors[name]
            width = max(STRIP_BYTES // max(info.rows * DTYPES[info.dtype].itemsize, 1), stop - start)
            first = start
            strip = _strip(checkpoint, info, start, min(start + width, info.columns))
            self._strips[kind] = name, first, strip
        return strip[:, start - first : stop - first]


def _strip(checkpoint: Checkpoint, info: TensorInfo, start: int, stop: int) -> NDArray[Any]:
    strip = np.empty((info.rows, stop - start), DTYPES[info.dtype])
    step = max(_CHUNK_BYTES // max(info.row_bytes, 1), 1)
    for row in range(0, info.rows, step):
        end = min(row + step, info.rows)
        strip[row:end] = read_array(checkpoint, info.name, row, end)[:, start:stop]
    return strip


class Shard(Protocol):
    """A file of tensors in the making: `ShardWriter`, or ONNX's `DataFile`."""

    path: Place
    entries: tuple[TensorInfo, ...]
    nbytes: int

    def write(self, name: str, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put ``data`` at byte ``offset`` of tensor ``name``."""
        ...

    def restore(self, name: str, offset: int, nbytes: int) -> None:
        """Count bytes of tensor ``name`` as written."""
        ...

    def finish(self) -> None:
        """Bring the file to the disk under its name."""
        ...

    def sync(self) -> None:
        """Bring what has been written to the disk."""
        ...

    def suspend(self) -> None:
        """Close the file, and leave what is written to a later job."""
        ...

    def discard(self) -> None:
        """Remove what is unfinished."""
        ...


class TransposedShard:
    """A shard some of whose matrices arrive column after column. Implements ``WeightFile`` of the layouts.

    Bytes of an entry called in ``transposed`` are those of its columns, whole ones, in order; of other entries as
    `ShardWriter` takes them.
    """

    def __init__(self, shard: Shard, transposed: Collection[str]) -> None:
        self.path: Place = shard.path
        self.entries = shard.entries
        self.nbytes = shard.nbytes
        self._shard = shard
        self._matrices: Mapping[str, _Matrix] = {
            entry.name: _Matrix(entry) for entry in shard.entries if entry.name in transposed
        }

    def write(self, name: str, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put ``data`` at byte ``offset`` of what arrives for ``name``; one thread at a time for each entry.

        Raises OutputError where the disk is full or fails; ValueError, a mistake of the caller, for columns that are
        not whole or not the next.
        """
        matrix = self._matrices.get(name)
        if matrix is None:
            self._shard.write(name, offset, data)
        else:
            matrix.take(self._shard, offset, np.frombuffer(data, np.uint8))

    def restore(self, name: str, offset: int, nbytes: int) -> None:
        """Count the bytes of a whole entry as written: by a job that was interrupted."""
        self._shard.restore(name, offset, nbytes)

    def finish(self) -> None:
        """Bring the file to the disk under its name. Raises OutputError where bytes are missing or the disk fails."""
        self._shard.finish()

    def sync(self) -> None:
        """Bring what has been written to the disk. Raises OutputError where the disk fails."""
        self._shard.sync()

    def suspend(self) -> None:
        """Close the file, and leave what is written to a later job."""
        self._shard.suspend()

    def discard(self) -> None:
        """Remove what is unfinished."""
        self._shard.discard()


class _Matrix:
    """The columns of one matrix on their way, gathered into strips."""

    def __init__(self, info: TensorInfo) -> None:
        self.info = info
        self._itemsize = DTYPES[info.dtype].itemsize
        self._column_bytes = info.rows * self._itemsize
        self._width = max(STRIP_BYTES // max(self._column_bytes, 1), 1)
        self._strip: NDArray[np.uint8] | None = None
        self._first = self._filled = 0  # columns before the strip, and in it

    def take(self, shard: Shard, offset: int, data: NDArray[np.uint8]) -> None:
        count, rest = divmod(len(data), max(self._column_bytes, 1))
        if rest or offset != (self._first + self._filled) * self._column_bytes:
            raise ValueError(f"{len(data)} bytes at {offset} of {self.info.name} are not its next columns")
        columns = data.reshape(count, self.info.rows, self._itemsize)
        while count := len(columns):
            if self._strip is None:
                width = min(self._width, prod(self.info.shape[1:]) - self._first)
                if not width:
                    raise ValueError(f"{count} columns more than {self.info.name} has")
                self._strip = np.empty((self.info.rows, width, self._itemsize), np.uint8)
            width = self._strip.shape[1]
            taken = min(count, width - self._filled)
            self._strip[:, self._filled : self._filled + taken] = columns[:taken].swapaxes(0, 1)
            self._filled += taken
            columns = columns[taken:]
            if self._filled == width:
                self._flush(shard, self._strip)

    def _flush(self, shard: Shard, strip: NDArray[np.uint8]) -> None:
        width, name = strip.shape[1], self.info.name
        if width == self.info.columns:
            shard.write(name, 0, strip.reshape(-1).data)
        else:
            for row, run in enumerate(strip.reshape(len(strip), -1)):
                shard.write(name, (row * self.info.columns + self._first) * self._itemsize, run.data)
        self._first, self._filled, self._strip = self._first + width, 0, None
