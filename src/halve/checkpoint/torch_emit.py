"""The pickle inside a torch checkpoint, written without torch: what `torch_pickle` reads, by hand."""

import struct
from collections.abc import Iterable
from math import prod

from halve.checkpoint.base import TensorInfo
from halve.checkpoint.torch_pickle import ORDERED_DICT, STORAGES, TYPES, UNTYPED, row_major

_CLASS_OF = {dtype: name for name, dtype in STORAGES.items()}
_NAME_OF = {dtype: name for name, dtype in TYPES.items()}


def dumps(entries: Iterable[tuple[TensorInfo, str]]) -> bytes:
    """A pickle of the state dict of ``entries``, each with the key of the storage that it fills."""
    body = b"".join(_text(info.name) + _rebuilt(info, key) for info, key in entries)
    return b"\x80\x02" + _global(ORDERED_DICT) + b")R(" + body + b"u."


def _rebuilt(info: TensorInfo, key: str) -> bytes:
    """The call that makes a tensor."""
    typed = info.dtype in _CLASS_OF
    storage = f"torch.{_CLASS_OF[info.dtype]}" if typed else f"torch.storage.{UNTYPED}"
    elements = prod(info.shape) if typed else info.nbytes
    described = b"(" + _text("storage") + _global(storage) + _text(key) + _text("cpu") + _integer(elements) + b"tQ"
    sizes = b"".join(b"(" + b"".join(map(_integer, n)) + b"t" for n in (info.shape, row_major(info.shape)))
    arguments = described + _integer(0) + sizes + b"\x89" + _global(ORDERED_DICT) + b")R"
    if typed:
        return _global("torch._utils._rebuild_tensor_v2") + b"(" + arguments + b"tR"
    dtype = _global(f"torch.{_NAME_OF[info.dtype]}")
    return _global("torch._utils._rebuild_tensor_v3") + b"(" + arguments + dtype + b"tR"


def _global(path: str) -> bytes:
    module, _, name = path.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _integer(value: int) -> bytes:
    if value < 1 << 8:
        return struct.pack("<cB", b"K", value)
    if value < 1 << 16:
        return struct.pack("<cH", b"M", value)
    if value < 1 << 31:
        return struct.pack("<ci", b"J", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw
