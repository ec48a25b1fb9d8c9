"""GGUF containers, read without trust: header, metadata, tensor table, raw rows.

The `gguf` package's own reader maps the whole file and believes every count in it. This one checks each count, length
and offset against the bytes that are left before it allocates anything, so that a hostile header costs nothing, and it
reads with ``preadv``. Any damage is a CheckpointError that names the file, the byte, the field and the reason.

Specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little endian).
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from halve.checkpoint.gguf_metadata import DAMAGED, Metadata
from halve.checkpoint.place import Place, RangeReader, open_ranges
from halve.errors import CheckpointError

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 20
# The largest vocabularies in circulation (262k tokens, 515k merges) take less than 20 MB and 0.8 M entries.
MAX_HEADER = 64 << 20  # bytes
MAX_ENTRIES = 2 << 20  # strings, arrays, pairs and tensors together
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
MAX_NESTING = 4
WINDOW = 1 << 18

BOOL, STRING, ARRAY = 7, 8, 9
NUMBERS: dict[int, np.dtype[Any]] = {  # gguf_metadata_value_type -> numpy dtype
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    BOOL: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
# The fewest bytes one entry can take: what a count is checked against before anything is allocated.
_LEAST_STRING = 8
_LEAST_ARRAY = 4 + 8
_LEAST_PAIR = _LEAST_STRING + 4 + 1
_LEAST_TENSOR = _LEAST_STRING + 4 + 8 + 4 + 8
U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Encoding:
    """How ggml stores ``block_size`` consecutive elements of a row in ``block_bytes`` bytes (ggml.h, ggml_type)."""

    id: int
    name: str
    block_size: int
    block_bytes: int


ENCODINGS: Mapping[int, Encoding] = MappingProxyType(
    {
        row[0]: Encoding(*row)
        for row in (
            (0, "F32", 1, 4),
            (1, "F16", 1, 2),
            (2, "Q4_0", 32, 18),
            (3, "Q4_1", 32, 20),
            (6, "Q5_0", 32, 22),
            (7, "Q5_1", 32, 24),
            (8, "Q8_0", 32, 34),
            (9, "Q8_1", 32, 40),
            (10, "Q2_K", 256, 84),
            (11, "Q3_K", 256, 110),
            (12, "Q4_K", 256, 144),
            (13, "Q5_K", 256, 176),
            (14, "Q6_K", 256, 210),
            (15, "Q8_K", 256, 292),
            (16, "IQ2_XXS", 256, 66),
            (17, "IQ2_XS", 256, 74),
            (18, "IQ3_XXS", 256, 98),
            (19, "IQ1_S", 256, 50),
            (20, "IQ4_NL", 32, 18),
            (21, "IQ3_S", 256, 110),
            (22, "IQ2_S", 256, 82),
            (23, "IQ4_XS", 256, 136),
            (24, "I8", 1, 1),
            (25, "I16", 1, 2),
            (26, "I32", 1, 4),
            (27, "I64", 1, 8),
            (28, "F64", 1, 8),
            (29, "IQ1_M", 256, 56),
            (30, "BF16", 1, 2),
            (34, "TQ1_0", 256, 54),
            (35, "TQ2_0", 256, 66),
            (39, "MXFP4", 32, 17),
            (40, "NVFP4", 64, 36),
            (41, "Q1_0", 128, 18),
        )
    }
)


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One entry of the tensor table. ``shape`` is row-major (GGUF lists the fastest dimension first)."""

    name: str
    encoding: Encoding
    shape: tuple[int, ...]
    offset: int  # of the first byte, from the start of the file

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return prod(self.shape) // self.encoding.block_size * self.encoding.block_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the leading dimension; one element of a vector."""
        return self.nbytes // self.shape[0]


class GgufFile:
    """An open GGUF file: ``metadata``, ``tensors`` by name in file order, and their raw rows. Safe to share by threads.

    Raises CheckpointError where the file cannot be opened or is not a whole, well-formed GGUF file.
    """

    def __init__(self, path: Place) -> None:
        self.path = path
        self._reader = open_ranges(path)
        try:
            header = _Header(self._reader)
            self.version = header.version()
            tensors = header.entries("tensor count", _LEAST_TENSOR)
            pairs = header.entries("metadata count", _LEAST_PAIR)
            self.metadata = Metadata(path, header.metadata(pairs))
            self.tensors: Mapping[str, GgufTensor] = MappingProxyType(header.tensors(tensors, self.metadata))
        except BaseException:
            self.close()
            raise

    def read_rows(self, tensor: GgufTensor, start: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with stored bytes of ``tensor`` from row ``start`` on (from an element on, of a vector).

        Raises CheckpointError where the file ends early or cannot be read.
        """
        self._reader.read_into(tensor.offset + start * tensor.row_bytes, buffer, tensor.name)

    def release(self, tensor: GgufTensor) -> None:
        """Let the pages of ``tensor`` leave the page cache."""
        self._reader.drop(tensor.offset, tensor.offset + tensor.nbytes)

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Header:
    """A cursor over everything before the tensor data; nothing is allocated that the file has not the bytes for."""

    def __init__(self, reader: RangeReader) -> None:
        self._reader, self._size, self._path = reader, reader.size, reader.path
        self._window, self._start, self._at = b"", 0, 0
        self._field = "magic"
        self._entries_left = MAX_ENTRIES

    @property
    def _position(self) -> int:
        return self._start + self._at

    def _fail(self, why: str, *, hint: str = DAMAGED) -> NoReturn:
        raise CheckpointError(f"{self._path}: byte {self._position}: {self._field}: {why}", hint=hint)

    def _need(self, length: int) -> None:
        """Bring the next ``length`` bytes into the window."""
        if self._at + length <= len(self._window):
            return
        position = self._position
        left = self._size - position
        if length > left:
            self._fail(f"needs {length} bytes, but only {left} are left in the file")
        if position + length > MAX_HEADER:
            self._fail(f"the header grows past {MAX_HEADER >> 20} MiB")
        self._window = self._reader.read(position, min(max(length, WINDOW), left))
        self._start, self._at = position, 0

    def _take(self, length: int) -> bytes:
        self._need(length)
        self._at += length
        return self._window[self._at - length : self._at]

    def _u32(self, field: str) -> int:
        self._field = field
        value: int = U32.unpack(self._take(4))[0]
        return value

    def _u64(self) -> int:
        value: int = U64.unpack(self._take(8))[0]
        return value

    def _count(self, least: int) -> int:
        """Read a count of entries of at least ``least`` bytes each, which must fit what is left."""
        count = self._u64()
        left = self._size - self._position
        if count * least > left:
            self._fail(f"{count} entries need at least {count * least} bytes, but only {left} are left in the file")
        if self._position + count * least > MAX_HEADER:
            self._fail(f"{count} entries let the header grow past {MAX_HEADER >> 20} MiB")
        return count

    def _entries(self, least: int) -> int:
        """Read a count of entries that become Python objects."""
        count = self._count(least)
        if count > self._entries_left:
            self._fail(f"{count} entries are too many: a header may have {MAX_ENTRIES} in all")
        self._entries_left -= count
        return count

    def entries(self, field: str, least: int) -> int:
        """Read one of the two counts of the header."""
        self._field = field
        return self._entries(least)

    def version(self) -> int:
        """Read magic and version."""
        if self._size < len(MAGIC) or (magic := self._take(len(MAGIC))) != MAGIC:
            found = f"starts with {magic!r}" if self._size >= len(MAGIC) else f"has {self._size} bytes"
            self._fail(
                f"not a GGUF file: it {found}", hint="give a .gguf file, or a folder with config.json and safetensors"
            )
        version = self._u32("version")
        if version and not version & 0xFFFF:
            self._fail("the file is big-endian", hint="convert it: gguf-convert-endian FILE little (pip install gguf)")
        if version not in (2, 3):
            self._fail(f"GGUF version {version} is not 2 or 3", hint="convert the model again with a current tool")
        return version

    def metadata(self, pairs: int) -> dict[str, Any]:
        """Read the key-value section."""
        values: dict[str, Any] = {}
        for index in range(pairs):
            self._field = f"metadata key {index}"
            key = self._string()
            if key in values:
                self._fail(f"{key} appears twice")
            values[key] = self._value(self._u32(key), depth=0)
        return values

    def _string(self) -> str:
        length = self._u64()
        data = self._take(length)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            self._fail(f"invalid UTF-8 in a string of {length} bytes, at its byte {error.start}")

    def _value(self, kind: int, depth: int) -> Any:
        if kind in NUMBERS:
            value = self._numbers(kind, 1)[0]
            # The shortest decimal that gives the same float32: 1e-05 rather than 9.999999747378752e-06.
            return float(str(value)) if value.dtype == np.float32 else value.item()
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            self._fail(f"unknown value type {kind}")
        if depth == MAX_NESTING:
            self._fail(f"arrays are nested deeper than {MAX_NESTING}")
        element = self._u32(self._field)
        if element in NUMBERS:
            return self._numbers(element, self._count(NUMBERS[element].itemsize))
        if element == STRING:
            return [self._string() for _ in range(self._entries(_LEAST_STRING))]
        if element != ARRAY:
            self._fail(f"unknown array type {element}")
        return [self._value(ARRAY, depth + 1) for _ in range(self._entries(_LEAST_ARRAY))]

    def _numbers(self, kind: int, count: int) -> NDArray[Any]:
        raw = np.frombuffer(self._take(count * NUMBERS[kind].itemsize), np.uint8)
        if kind == BOOL and raw.size and raw.max() > 1:
            self._fail(f"a bool is {raw.max()}, not 0 or 1")
        values: NDArray[Any] = raw.view(NUMBERS[kind])
        return values

    def tensors(self, count: int, metadata: Metadata) -> dict[str, GgufTensor]:
        """Read the tensor table; offsets become absolute. Refuses what overlaps or lies outside the file."""
        alignment = metadata.integer("general.alignment", DEFAULT_ALIGNMENT)
        if not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            self._field = "general.alignment"
            self._fail(f"{alignment} is not a power of two up to {MAX_ALIGNMENT}")
        tensors: dict[str, GgufTensor] = {}
        for index in range(count):
            self._field = f"name of tensor {index}"
            name = self._string()
            if name in tensors:
                self._fail(f"{name!r} appears twice")
            tensors[name] = self._tensor(name, alignment)
        data = -(-self._position // alignment) * alignment
        return {name: self._placed(tensor, data) for name, tensor in _disjoint(tensors, self._path).items()}

    def _tensor(self, name: str, alignment: int) -> GgufTensor:
        dimensions = self._u32(f"tensor {name!r}: dimensions")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            self._fail(f"{dimensions} is not 1 to {MAX_DIMENSIONS}")
        shape = tuple(self._u64() for _ in range(dimensions))[::-1]
        if 0 in shape:
            self._fail(f"a dimension is 0 in {shape}")
        kind = self._u32(f"tensor {name!r}: type")
        if kind not in ENCODINGS:
            self._fail(f"unknown type {kind}", hint="the file is damaged or newer than this version of halve")
        encoding = ENCODINGS[kind]
        if shape[-1] % encoding.block_size:
            self._fail(f"rows of {shape[-1]} are not a multiple of {encoding.name}'s block size {encoding.block_size}")
        self._field = f"tensor {name!r}: offset"
        offset = self._u64()
        if offset % alignment:
            self._fail(f"{offset} is not a multiple of the alignment {alignment}")
        return GgufTensor(name, encoding, shape, offset)

    def _placed(self, tensor: GgufTensor, data: int) -> GgufTensor:
        start = data + tensor.offset
        if start + tensor.nbytes > self._size:
            self._field = f"tensor {tensor.name!r}: offset"
            self._fail(f"bytes {start} to {start + tensor.nbytes} lie outside the file, which has {self._size} bytes")
        return GgufTensor(tensor.name, tensor.encoding, tensor.shape, start)


def _disjoint(tensors: dict[str, GgufTensor], path: Place) -> dict[str, GgufTensor]:
    """Raise CheckpointError where two tensors share bytes."""
    end, before = 0, ""
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
        if tensor.offset < end:
            raise CheckpointError(
                f"{path}: tensor {tensor.name!r}: offset: its data overlaps that of {before!r}", hint=DAMAGED
            )
        end, before = tensor.offset + tensor.nbytes, tensor.name
    return tensors
