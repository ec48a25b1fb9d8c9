"""GGUF files written in any order: every offset is known before the first tensor comes.

Version 3, little endian, data aligned to 32 bytes. The same model gives the same bytes, whatever threads write it.
Specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from halve.checkpoint.base import TensorInfo
from halve.checkpoint.gguf import ARRAY, BOOL, DEFAULT_ALIGNMENT, ENCODINGS, MAGIC, NUMBERS, STRING, U32, U64, Encoding
from halve.checkpoint.gguf_llama import source_rows
from halve.checkpoint.place import Place, open_writer
from halve.errors import OutputError

Value = bool | int | float | str | list[str] | NDArray[np.generic]  # as `Metadata` gives them back

VERSION = 3
ENCODING = {encoding.name: encoding for encoding in ENCODINGS.values()}

_KINDS = {dtype: kind for kind, dtype in NUMBERS.items()}


@dataclass(frozen=True, slots=True)
class Destination:
    """What an entry becomes in the file.

    ``shape`` counts elements, not bytes. ``head`` > 0: rows are interleaved within heads of that many rows.
    """

    name: str
    encoding: Encoding
    shape: tuple[int, ...]
    head: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return prod(self.shape) // self.encoding.block_size * self.encoding.block_bytes


@dataclass(frozen=True, slots=True)
class GgufModel:
    """What a GGUF file is to hold: metadata, what becomes of the entries to come, and small tensors known already."""

    metadata: Mapping[str, Value]
    tensors: Mapping[str, Destination]  # by the name of the entry, in the order of the file
    constants: Mapping[str, NDArray[np.float32]]


class GgufWriter:
    """A GGUF file in the making: ``path.part``, renamed to ``path`` when every tensor has all its bytes.

    Entries have Hugging Face names and rows; one that ``model`` has no destination for is read and left out. Implements
    ``WeightFile`` of the layouts.

    Raises OutputError where the file exists, cannot be made, or does not fit on the disk.
    """

    def __init__(self, path: Place, entries: Sequence[TensorInfo], model: GgufModel) -> None:
        self.path = path
        self.entries = tuple(entries)
        plan = _Plan(model)
        self.nbytes = plan.nbytes
        self._tensors = model.tensors
        self._infos = {entry.name: entry for entry in self.entries}
        self._begins = {name: plan.offsets[tensor.name] for name, tensor in model.tensors.items()}
        self._written: dict[str, dict[int, int]] = {name: {} for name in model.tensors}
        self._lock = Lock()
        self._file = open_writer(path, self.nbytes)
        try:
            self._file.write(0, memoryview(plan.header))
            for name, values in model.constants.items():
                self._file.write(plan.offsets[name], memoryview(values.astype("<f4").tobytes()))
        except BaseException:
            self._file.discard()
            raise

    def write(self, name: str, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put ``data`` at byte ``offset`` of entry ``name``; from any thread, any part of any entry, in any order.

        Raises OutputError where the disk is full or fails; ValueError, a mistake of the caller, for bytes that do not
        belong to the entry or have been written before.
        """
        view, row_bytes = memoryview(data).cast("B"), self._infos[name].row_bytes
        self.restore(name, offset, len(view))
        if name not in self._tensors or not view:
            return
        begin, head = self._begins[name], self._tensors[name].head
        for place, part in _interleaved(view, offset, row_bytes, head) if head else ((offset, view),):
            self._file.write(begin + place, part)

    def restore(self, name: str, offset: int, nbytes: int) -> None:
        """Count ``nbytes`` bytes at byte ``offset`` of entry ``name`` as written: by a job that was interrupted."""
        if not 0 <= offset <= self._infos[name].nbytes - nbytes:
            raise ValueError(f"bytes {offset} to {offset + nbytes} of {name} have no place in {self.path}")
        if name not in self._tensors or not nbytes:
            return
        with self._lock:
            if offset in self._written[name]:
                raise ValueError(f"byte {offset} of {name} has been written before")
            self._written[name][offset] = offset + nbytes

    def finish(self) -> None:
        """Bring the file to the disk under its name. Raises OutputError where bytes are missing or the disk fails."""
        for name, pieces in self._written.items():
            end = 0
            for start, stop in sorted(pieces.items()):
                if start != end:
                    break
                end = stop
            if end != self._infos[name].nbytes:
                raise OutputError(
                    f"{self.path}: {name} has {end} of its {self._infos[name].nbytes} bytes, one after another",
                    hint="the job was cut short: run it again",
                )
        self._file.finish()

    def sync(self) -> None:
        """Bring what has been written to the disk. Raises OutputError where the disk fails."""
        self._file.sync()

    def suspend(self) -> None:
        """Close the file, and leave what is written to a later job."""
        self._file.suspend()

    def discard(self) -> None:
        """Remove what is unfinished, once no thread writes any more. After `finish`, or a second time, do nothing."""
        self._file.discard()


def file_bytes(model: GgufModel) -> int:
    """Size of the file that `GgufWriter` would make."""
    return _Plan(model).nbytes


def _interleaved(view: memoryview, offset: int, row_bytes: int, head: int) -> Iterator[tuple[int, memoryview]]:
    """Pieces of ``view``, which starts at byte ``offset`` of a tensor in Hugging Face order, and their places in GGUF.

    Whole heads are reordered in memory, the rows of broken ones one by one.
    """
    done = 0
    while done < len(view):
        row, within = divmod(offset + done, row_bytes)
        heads = (len(view) - done) // (head * row_bytes)
        if within or row % head or not heads:
            end = min(done + row_bytes - within, len(view))
            place = int(source_rows(row, row + 1, head)[0])
            yield place * row_bytes + within, view[done:end]
        else:
            end = done + heads * head * row_bytes
            halves = np.frombuffer(view[done:end], np.uint8).reshape(heads, 2, head // 2, row_bytes)
            yield row * row_bytes, np.ascontiguousarray(halves.swapaxes(1, 2)).data.cast("B")
        done = end


class _Plan:
    """The bytes before the data, where each tensor begins in the file, and the size of the whole."""

    def __init__(self, model: GgufModel) -> None:
        constants = [Destination(name, ENCODING["F32"], values.shape) for name, values in model.constants.items()]
        tensors = [*constants, *model.tensors.values()]
        offsets: dict[str, int] = {}
        position = 0
        for tensor in tensors:
            offsets[tensor.name] = position
            position += _aligned(tensor.nbytes)
        if len(offsets) != len(tensors):
            raise ValueError("two tensors have one name")
        counts = U32.pack(VERSION) + U64.pack(len(tensors)) + U64.pack(len(model.metadata))
        pairs = (_text(key) + _pair(key, value) for key, value in model.metadata.items())
        table = (_entry(tensor, offsets[tensor.name]) for tensor in tensors)
        header = b"".join((MAGIC, counts, *pairs, *table))
        self.header = header + bytes(_aligned(len(header)) - len(header))
        self.offsets = {name: len(self.header) + offset for name, offset in offsets.items()}
        self.nbytes = len(self.header) + position


def _aligned(nbytes: int) -> int:
    return -(-nbytes // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT


def _text(value: str) -> bytes:
    content = value.encode()
    return U64.pack(len(content)) + content


def _entry(tensor: Destination, offset: int) -> bytes:
    shape = tensor.shape[::-1]  # the fastest dimension first
    sizes = b"".join(map(U64.pack, shape))
    return _text(tensor.name) + U32.pack(len(shape)) + sizes + U32.pack(tensor.encoding.id) + U64.pack(offset)


def _pair(key: str, value: Value) -> bytes:
    """Type and bytes of a value: whole numbers become uint32, others float32."""
    match value:
        case bool():
            return U32.pack(BOOL) + bytes([value])
        case str():
            return U32.pack(STRING) + _text(value)
        case int() if 0 <= value < 1 << 32:
            return _number(np.array(value, "<u4"))
        case float():
            return _number(np.array(value, "<f4"))
        case list():
            head = U32.pack(ARRAY) + U32.pack(STRING) + U64.pack(len(value))
            return head + b"".join(map(_text, value))
        case np.ndarray():
            little = value.astype(value.dtype.newbyteorder("<"), copy=False)
            return U32.pack(ARRAY) + U32.pack(_KINDS[little.dtype]) + U64.pack(little.size) + little.tobytes()
    raise ValueError(f"{key} = {value!r} has no type in GGUF")


def _number(value: NDArray[np.generic]) -> bytes:
    return U32.pack(_KINDS[value.dtype]) + value.tobytes()
