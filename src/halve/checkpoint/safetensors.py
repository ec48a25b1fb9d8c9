"""safetensors files: a header reader that trusts nothing, and a writer that several threads share.

A file is 8 bytes of length, a JSON header of that length, and the tensors side by side. The reader checks every name,
shape and offset against each other and against the file before anything is allocated for a tensor; what it accepts, the
safetensors library accepts too. The writer knows every offset before the first byte of data.

Specification: https://github.com/huggingface/safetensors#format
"""

import hashlib
import json
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn, TypeVar

from halve.checkpoint.base import DTYPES, TensorInfo
from halve.checkpoint.place import Place, RangeReader, open_ranges, open_writer
from halve.checkpoint.region import Region
from halve.errors import CheckpointError, OutputError, UnsupportedError

MAX_HEADER = 100_000_000  # bytes; the library's own limit
MAX_ENTRY = 4096  # characters of JSON that describe one tensor; real ones take about 80
MAX_NAME = 1024  # characters
MAX_ELEMENTS = 1 << 48  # of one tensor, empty dimensions not counted
DAMAGED = "the file is incomplete, damaged or not what it claims to be: download or copy it again"
METADATA = "__metadata__"

_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 8  # of the data, by padding the header with spaces
_SPACE = re.compile(r"[ \t\n\r]*")
_FIELDS = {"dtype", "shape", "data_offsets"}

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Located:
    """A tensor and where its bytes lie, counted from the header's end."""

    info: TensorInfo
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors header says: tensors in the order of their data, free text, and where the data starts."""

    tensors: dict[str, Located]
    metadata: dict[str, str]
    data_start: int


def read_header(path: Place) -> Header:
    """The header of the file ``path``, checked against the file. Raises CheckpointError naming what is wrong."""
    with open_ranges(path) as file:
        return header_of(file)


def header_of(file: RangeReader) -> Header:
    """The header of an open file; see `read_header`."""
    if file.size < _LENGTH.size:
        raise CheckpointError(
            f"{file.path}: {file.size} bytes are too few for a safetensors file", hint="download or copy it again"
        )
    (length,) = _LENGTH.unpack(file.read(0, _LENGTH.size))
    for limit, whose in ((file.size - _LENGTH.size, "that the file has left"), (MAX_HEADER, "that are allowed")):
        if length > limit:
            raise CheckpointError(
                f"{file.path}: its first 8 bytes promise a header of {length} bytes, more than the {limit} {whose}",
                hint=DAMAGED,
            )
    data_start = _LENGTH.size + length
    cursor = _Json(file.path, file.read(_LENGTH.size, length))

    def value(name: str) -> Any:
        return cursor.metadata() if name == METADATA else _located(file.path, name, cursor.entry(name))

    tensors = cursor.object(value)
    cursor.end()
    metadata = tensors.pop(METADATA, {})
    return Header(_side_by_side(file.path, tensors, file.size - data_start), metadata, data_start)


class _Json:
    """A cursor over the header.

    ``json.loads`` would build whatever the text describes, which for 100 MB of brackets is several GB. Here nothing but
    the few shapes that a header may have is taken, and an entry is cut out, at bounded length, before it is parsed.
    """

    def __init__(self, path: Place, raw: bytes) -> None:
        self._path, self._at = path, 0
        try:
            self._text = raw.decode()
        except UnicodeDecodeError as error:
            self._fail(f"invalid UTF-8 at its byte {error.start}")

    def _fail(self, why: str) -> NoReturn:
        raise CheckpointError(f"{self._path}: header: {why}", hint=DAMAGED)

    def _next(self) -> str:
        """The next character that is no space; the cursor stays on it."""
        self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr] # it matches nothing, too
        return self._text[self._at : self._at + 1]

    def _take(self, allowed: str) -> str:
        found = self._next()
        if not found or found not in allowed:
            wanted = " or ".join(map(repr, allowed))
            self._fail(f"{found!r} at character {self._at}, not {wanted}" if found else f"ends where {wanted} must be")
        self._at += 1
        return found

    def object(self, value: Callable[[str], Value]) -> dict[str, Value]:
        """Take an object; ``value`` takes what stands behind the key it is given."""
        members: dict[str, Value] = {}
        self._take("{")
        if self._next() == "}":
            self._at += 1
            return members
        while True:
            key = self.string()
            if key in members:
                self._fail(f"{_shown(key)} appears twice")
            self._take(":")
            members[key] = value(key)
            if self._take(",}") == "}":
                return members

    def string(self) -> str:
        """Take a string."""
        self._take('"')
        try:
            value, self._at = _STRICT.raw_decode(self._text, self._at - 1)
            value.encode()  # an escaped half of a surrogate pair is no text
        except ValueError as error:
            self._fail(f"no string at character {self._at}: {_reason(error)}")
        return str(value)

    def metadata(self) -> dict[str, str]:
        """Take the value of ``__metadata__``: an object of strings, or null as some writers put it."""
        if self._next() == "n" and self._text.startswith("null", self._at):
            self._at += len("null")
            return {}
        return self.object(lambda _: self.string())

    def entry(self, name: str) -> dict[str, Any]:
        """Take the description of the tensor ``name``: a short object that holds no other."""
        if len(name) > MAX_NAME or not name.isprintable():
            self._fail(
                f"{_shown(name)} is no tensor name: it has control characters or more than {MAX_NAME} characters"
            )
        if self._next() != "{":
            self._fail(f"tensor {name!r} is not described by an object")
        end = self._text.find("}", self._at, self._at + MAX_ENTRY) + 1
        if not end:
            self._fail(f"the description of tensor {name!r} does not end within {MAX_ENTRY} characters")
        try:
            value: dict[str, Any] = _STRICT.decode(self._text[self._at : end])
        except (ValueError, RecursionError) as error:
            self._fail(f"the description of tensor {name!r} is not valid: {_reason(error)}")
        self._at = end
        return value

    def end(self) -> None:
        """Only spaces may follow."""
        if self._next():
            self._fail(f"{self._text[self._at]!r} at character {self._at}, after its end")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key appears twice")
    return members


def _natural(digits: str) -> int:
    if digits.startswith("-") or len(digits) > 20:  # 2^64 has 20
        raise ValueError(f"{digits[:24]} is not a size")
    return int(digits)


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_natural)


def _reason(error: Exception) -> str:
    return str(getattr(error, "msg", error))


def _shown(name: str) -> str:
    return repr(name) if len(name) <= MAX_NAME else f"{name[:40]!r}..."


def _located(path: Place, name: str, entry: dict[str, Any]) -> Located:
    """Check one entry by itself. Raises CheckpointError naming the tensor."""

    def fail(why: str, hint: str = DAMAGED) -> NoReturn:
        raise CheckpointError(f"{path}: tensor {name!r}: {why}", hint=hint)

    if entry.keys() != _FIELDS:
        fail(f"described by {', '.join(map(repr, entry)) or 'nothing'}, not by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        fail(f"unknown dtype {dtype!r}", f"known: {', '.join(DTYPES)}; the file is damaged or of a newer kind")
    if not _sizes(shape):
        fail(f"shape {shape!r} is not a list of sizes")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        fail(f"data_offsets {offsets!r} are not a begin and an end")
    if prod(size or 1 for size in shape) > MAX_ELEMENTS:
        fail(f"shape {shape} is too large")
    info = TensorInfo(name, dtype, tuple(shape))
    begin, end = offsets
    if end - begin != info.nbytes:
        fail(f"{dtype} of shape {shape} takes {info.nbytes} bytes, but data_offsets {offsets} hold {end - begin}")
    return Located(info, begin, end)


def _sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int for value in values)  # a bool is an int, too


def _side_by_side(path: Place, tensors: dict[str, Located], size: int) -> dict[str, Located]:
    """Sort by place; check that the tensors fill the ``size`` bytes of data without gap or overlap."""
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)))
    position, before = 0, ""
    for name, located in ordered.items():
        if located.end > size:
            raise CheckpointError(
                f"{path}: tensor {name!r}: its bytes {located.begin} to {located.end} lie outside the file, which has "
                f"{size} bytes of data",
                hint="the file was cut off, or is damaged: download or copy it again",
            )
        if located.begin < position:
            raise CheckpointError(f"{path}: tensor {name!r}: its bytes overlap those of {before!r}", hint=DAMAGED)
        if located.begin > position:
            raise CheckpointError(
                f"{path}: tensor {name!r}: the {located.begin - position} bytes before it belong to no tensor",
                hint=DAMAGED,
            )
        position, before = located.end, name
    if position != size:
        raise CheckpointError(f"{path}: its last {size - position} bytes belong to no tensor", hint=DAMAGED)
    return ordered


class ShardWriter:
    """A safetensors file in the making: ``path.part``, renamed to ``path`` when every tensor has all its bytes.

    Tensors lie in the order of ``entries``. ``header_sha256`` is the hash of everything before the data.

    Raises OutputError where the file exists, cannot be made, or does not fit on the disk; UnsupportedError where two
    entries have one name.
    """

    def __init__(self, path: Place, entries: Sequence[TensorInfo], metadata: Mapping[str, str]) -> None:
        self.path = path
        self.entries = tuple(entries)
        header = _serialised(path, self.entries, metadata)
        self.header_sha256 = hashlib.sha256(header).hexdigest()
        self._regions: dict[str, Region] = {}
        self.nbytes = len(header)
        for entry in self.entries:
            self._regions[entry.name] = Region(self.nbytes, entry.nbytes)
            self.nbytes += entry.nbytes
        self._missing = self.nbytes - len(header)
        self._lock = Lock()
        self._file = open_writer(path, self.nbytes)
        try:
            self._file.write(0, memoryview(header))
        except BaseException:
            self._file.discard()
            raise

    def write(self, name: str, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put ``data`` at byte ``offset`` of tensor ``name``; from any thread, any part of any tensor, in any order.

        Raises OutputError where the disk is full or fails; ValueError, a mistake of the caller, for bytes that do not
        belong to the tensor or have been written before.
        """
        view = memoryview(data).cast("B")
        self._claim(name, offset, len(view))
        self._file.write(self._regions[name].begin + offset, view)
        with self._lock:
            self._missing -= len(view)

    def restore(self, name: str, offset: int, nbytes: int) -> None:
        """Count ``nbytes`` bytes at byte ``offset`` of tensor ``name`` as written: by a job that was interrupted."""
        self._claim(name, offset, nbytes)
        with self._lock:
            self._missing -= nbytes

    def _claim(self, name: str, offset: int, nbytes: int) -> None:
        with self._lock:
            if not self._regions[name].claim(offset, offset + nbytes):
                raise ValueError(f"bytes {offset} to {offset + nbytes} of {name} have no place in {self.path}")

    def finish(self) -> None:
        """Bring the file to the disk under its name. Raises OutputError where bytes are missing or the disk fails."""
        if self._missing:
            names = [name for name, region in self._regions.items() if not region.whole]
            raise OutputError(
                f"{self.path}: {self._missing} bytes have not been written{f', of {names[0]} first' if names else ''}",
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


def file_bytes(entries: Sequence[TensorInfo], metadata: Mapping[str, str]) -> int:
    """Size of the file that `ShardWriter` would make of ``entries``."""
    return len(_serialised(Path(), tuple(entries), metadata)) + sum(entry.nbytes for entry in entries)


def _serialised(path: Place, entries: tuple[TensorInfo, ...], metadata: Mapping[str, str]) -> bytes:
    """Everything before the data: length, JSON, and spaces up to the alignment."""
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    position = 0
    for entry in entries:
        if entry.name in header or entry.name == METADATA:
            raise UnsupportedError(
                f"{path}: two tensors would be called {entry.name}",
                hint="the checkpoint has a tensor with the name of another's scale: leave that one out with --ignore",
            )
        end = position + entry.nbytes
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > MAX_HEADER:
        raise OutputError(
            f"{path}: a header of {len(text)} bytes is more than the {MAX_HEADER} that programs read",
            hint="ask for smaller shards",
        )
    return _LENGTH.pack(len(text)) + text
