"""GGUF files byte by byte, for what no honest writer would write."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
HEADER = 24  # bytes of magic, version and the two counts


def u32(value: int) -> bytes:
    """Four bytes."""
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    """Eight bytes."""
    return struct.pack("<Q", value)


def text(value: bytes | str, length: int | None = None) -> bytes:
    """A string; ``length`` lies about it."""
    content = value.encode() if isinstance(value, str) else value
    return u64(len(content) if length is None else length) + content


def array(kind: int, elements: Sequence[bytes], count: int | None = None) -> bytes:
    """The value of an array; ``count`` lies about it."""
    return u32(kind) + u64(len(elements) if count is None else count) + b"".join(elements)


def pair(key: bytes | str, kind: int, value: bytes) -> bytes:
    """One entry of the metadata."""
    return text(key) + u32(kind) + value


def tensor(
    name: bytes | str, shape: Iterable[int], kind: int = 0, offset: int = 0, dimensions: int | None = None
) -> bytes:
    """One entry of the tensor table; ``shape`` as GGUF has it, fastest dimension first."""
    sizes = list(shape)
    count = len(sizes) if dimensions is None else dimensions
    return text(name) + u32(count) + b"".join(map(u64, sizes)) + u32(kind) + u64(offset)


@dataclass(kw_only=True)
class Container:
    """A file in parts; counts are true unless given."""

    magic: bytes = b"GGUF"
    version: int = 3
    pairs: Sequence[bytes] = field(default_factory=list)
    tensors: Sequence[bytes] = field(default_factory=list)
    pair_count: int | None = None
    tensor_count: int | None = None
    alignment: int = 32
    data: bytes = b""

    def header(self) -> bytes:
        """Everything before the tensor data, without padding."""
        counts = (
            len(self.tensors) if self.tensor_count is None else self.tensor_count,
            len(self.pairs) if self.pair_count is None else self.pair_count,
        )
        return b"".join((self.magic, u32(self.version), *map(u64, counts), *self.pairs, *self.tensors))

    def content(self) -> bytes:
        """The whole file."""
        header = self.header()
        return header + bytes(-len(header) % self.alignment) + self.data
