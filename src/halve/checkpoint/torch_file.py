"""torch checkpoints (``.bin``, ``.pt``, ``.pth``) without torch: tensors found in place, state dicts written in place.

A file as ``torch.save`` has written it since torch 1.6 (2020) is read by row ranges at their offsets, like safetensors.
Nothing in it is run. What `TorchWriter` makes, ``torch.load(weights_only=True)`` reads, memory-mapped or not.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from halve.checkpoint import torch_archive, torch_emit, torch_pickle
from halve.checkpoint.base import DTYPES, TensorInfo
from halve.checkpoint.place import Place, RangeReader, open_writer
from halve.checkpoint.safetensors import Located
from halve.checkpoint.torch_archive import DAMAGED, Record
from halve.checkpoint.torch_pickle import RESAVE
from halve.errors import CheckpointError, OutputError, UnsupportedError

SUFFIXES = (".bin", ".pt", ".pth")

_FOLDER = "archive"  # torch's name for it where there is no file name to take
_VERSION = b"3\n"  # of the archive
_PICKLE = "data.pkl"
_CHUNK = 1 << 20  # bytes of a file in memory


@dataclass(frozen=True, slots=True)
class Strided(Located):
    """A tensor whose elements do not lie row after row: a view, such as a transposed matrix."""

    strides: tuple[int, ...]  # in elements

    def read(self, file: RangeReader, start: int, stop: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with rows ``start..stop``. Takes memory for all that lies between their elements."""
        shape, dtype = (stop - start, *self.info.shape[1:]), DTYPES[self.info.dtype]
        if not len(buffer):
            return
        span = 1 + sum((size - 1) * stride for size, stride in zip(shape, self.strides, strict=True))
        raw = file.read(self.begin + start * self.strides[0] * dtype.itemsize, span * dtype.itemsize)
        steps = tuple(stride * dtype.itemsize for stride in self.strides)
        view = np.ndarray(shape, dtype, raw, strides=steps)
        np.frombuffer(buffer, dtype).reshape(shape)[...] = view


def tensors_of(file: RangeReader) -> dict[str, Located]:
    """The tensors of an open file, located from its first byte on, in the order of their data.

    Raises CheckpointError for what torch has not written, or wrote before 1.6, for anything but a state dict of plain
    tensors, and for a file that contradicts itself.
    """
    head = file.read(0, min(file.size, 4))
    if head != torch_archive.MAGIC:
        if head.startswith(b"\x80"):
            raise CheckpointError(
                f"{file.path}: refused: it is a bare pickle, as torch wrote them before 1.6, and reading one runs code "
                "from it",
                hint='where you trust it, save it anew: python -c "import torch; torch.save(torch.load('
                f"'{file.path.name}', weights_only=True), 'pytorch_model.bin')\"",
            )
        raise CheckpointError(f"{file.path}: not a file that torch.save has written", hint=DAMAGED)
    records = torch_archive.records_of(file)
    if _PICKLE not in records or "constants.pkl" in records:
        raise CheckpointError(
            f"{file.path}: a zip archive, and not a state dict in one (a TorchScript program?)", hint=RESAVE
        )
    _check_byte_order(file, records)
    pickle = records[_PICKLE]
    if pickle.nbytes > torch_pickle.MAX_PICKLE:
        raise CheckpointError(
            f"{file.path}: {_PICKLE} takes {pickle.nbytes} bytes, more than the {torch_pickle.MAX_PICKLE} allowed",
            hint=RESAVE,
        )
    tensors = torch_pickle.loads(file.read(pickle.begin, pickle.nbytes), f"{file.path}: {_PICKLE}")
    located = {name: _located(file, name, tensor, records) for name, tensor in tensors.items()}
    return dict(sorted(located.items(), key=lambda item: item[1].begin))


def _check_byte_order(file: RangeReader, records: dict[str, Record]) -> None:
    record = records.get("byteorder")
    if record is not None and file.read(record.begin, min(record.nbytes, 8)) != b"little":
        raise CheckpointError(
            f"{file.path}: written on a big-endian machine", hint="load it with torch and save it on another machine"
        )


def _located(file: RangeReader, name: str, tensor: torch_pickle.TorchTensor, records: dict[str, Record]) -> Located:
    record = records.get(f"data/{tensor.storage}")
    if record is None or record.nbytes != tensor.storage_bytes:
        there = "is missing" if record is None else f"has {record.nbytes} bytes"
        raise CheckpointError(
            f"{file.path}: {name} needs storage {tensor.storage[:40]!r} of {tensor.storage_bytes} bytes, which {there}",
            hint=DAMAGED,
        )
    itemsize = DTYPES[tensor.dtype].itemsize
    info = TensorInfo(name, tensor.dtype, tensor.shape)
    begin = record.begin + tensor.offset * itemsize
    if tensor.contiguous:
        return Located(info, begin, begin + info.nbytes)
    return Strided(info, begin, begin + tensor.span * itemsize, tensor.strides)


@dataclass(slots=True)
class _Pieces:
    """What has been written of a tensor: offset -> (length, checksum)."""

    written: dict[int, tuple[int, int]] = field(default_factory=dict)

    def checksum(self) -> tuple[int, int]:
        """Bytes written without a gap from the first on, and the checksum of them all."""
        at = crc = 0
        for offset, (length, piece) in sorted(self.written.items()):
            if offset != at:
                break
            crc = _joined(crc, piece, length)
            at += length
        return at, crc


class TorchWriter:
    """A state dict in the making: ``path.part``, renamed to ``path`` when every tensor has all its bytes.

    Tensors lie in the order of ``entries``, each in a storage of its own. Implements ``WeightFile`` of the layouts.

    Raises OutputError where the file exists, cannot be made, or does not fit on the disk; UnsupportedError where two
    entries have one name.
    """

    def __init__(self, path: Place, entries: Sequence[TensorInfo]) -> None:
        self.path = path
        self.entries = tuple(entries)
        self._keys = {entry.name: f"data/{i}" for i, entry in enumerate(self.entries)}
        if len(self._keys) != len(self.entries):
            names = [entry.name for entry in self.entries]
            twice = next(name for name in names if names.count(name) > 1)
            raise UnsupportedError(
                f"{path}: two tensors would be called {twice}",
                hint="the checkpoint has a tensor with the name of another's scale: leave that one out with --ignore",
            )
        self._small = _small(self.entries)
        self._plan = _blueprint(self.entries)
        self.nbytes = self._plan.nbytes
        self._sizes = {entry.name: entry.nbytes for entry in self.entries}
        self._pieces = {entry.name: _Pieces() for entry in self.entries}
        self._lock = Lock()
        self._file = open_writer(path, self.nbytes)

    def write(self, name: str, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put ``data`` at byte ``offset`` of tensor ``name``; from any thread, any part of any tensor, in any order.

        Raises OutputError where the disk is full or fails; ValueError, a mistake of the caller, for bytes that do not
        belong to the tensor or have been written before.
        """
        view = memoryview(data).cast("B")
        if not view:
            return
        pieces = self._pieces[name].written
        with self._lock:
            if offset in pieces or not 0 <= offset <= self._sizes[name] - len(view):
                raise ValueError(f"bytes {offset} to {offset + len(view)} of {name} have no place in {self.path}")
            pieces[offset] = len(view), 0
        self._file.write(self._plan.records[self._keys[name]].begin + offset, view)
        pieces[offset] = len(view), zlib.crc32(view)

    def restore(self, name: str, offset: int, nbytes: int) -> None:
        """Count ``nbytes`` bytes at byte ``offset`` of tensor ``name`` as written: by a job that was interrupted."""
        begin, crc = self._plan.records[self._keys[name]].begin + offset, 0
        for start in range(0, nbytes, _CHUNK):
            crc = zlib.crc32(self._file.read(begin + start, min(_CHUNK, nbytes - start)), crc)
        if nbytes:
            self._pieces[name].written[offset] = nbytes, crc

    def finish(self) -> None:
        """Bring the file to the disk under its name. Raises OutputError where bytes are missing or the disk fails."""
        crcs = {name: zlib.crc32(content) for name, content in self._small.items()}
        for entry in self.entries:
            whole, crcs[self._keys[entry.name]] = self._pieces[entry.name].checksum()
            if whole != entry.nbytes:
                raise OutputError(
                    f"{self.path}: {entry.name} has {whole} of its {entry.nbytes} bytes",
                    hint="the job was cut short: run it again",
                )
        plan = self._plan
        for name, record in plan.records.items():
            self._file.write(plan.headers[name], memoryview(plan.header(name, crcs[name])))
            if name in self._small:
                self._file.write(record.begin, memoryview(self._small[name]))
        self._file.write(plan.directory, memoryview(plan.trailer(crcs)))
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


def file_bytes(entries: Sequence[TensorInfo]) -> int:
    """Size of the file that `TorchWriter` would make of ``entries``."""
    return _blueprint(entries).nbytes


def _small(entries: Sequence[TensorInfo]) -> dict[str, bytes]:
    """The records that are not tensors."""
    pickle = torch_emit.dumps((entry, str(i)) for i, entry in enumerate(entries))
    return {_PICKLE: pickle, "byteorder": b"little", "version": _VERSION}


def _blueprint(entries: Sequence[TensorInfo]) -> torch_archive.Blueprint:
    small = [(name, len(content)) for name, content in _small(entries).items()]
    data = [(f"data/{i}", entry.nbytes) for i, entry in enumerate(entries)]
    return torch_archive.blueprint(_FOLDER, [*small, *data])


def _joined(first: int, second: int, length: int) -> int:
    """CRC-32 of two pieces side by side, from theirs and the ``length`` of the second."""
    shift, power, factor = 1 << 31, length, 1 << 23  # x^0, bytes left, x^8: the polynomials with the lowest term first
    while power:
        if power & 1:
            shift = _product(shift, factor)
        factor = _product(factor, factor)
        power >>= 1
    return _product(shift, first) ^ second


def _product(a: int, b: int) -> int:
    """Product of two polynomials over GF(2), modulo that of CRC-32."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (0xEDB88320 if b & 1 else 0)
    return product
