"""How each kind of block is packed: the element and the scales that a native kernel exists for.

Integers of at most 4 bits become int4, FP6 becomes FP8 (every FP6 number is one of E4M3's), what remains of at most 8
bits goes through a table of its values. Zero points and minima become offsets, a number a block that is added to its
values. Blocks that are not whole units of columns are dequantized to float32. native/packed.h describes the lines.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from halve import formats
from halve.codecs import dispatch, reference
from halve.errors import FormatError
from halve.formats import Int
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import dequantize
from halve.schemes.table import Block

UNIT = 32  # columns
GROUP = 16  # rows

Element = Literal["fp4", "int4", "int8", "fp8", "coded", "fp16", "bf16", "fp32"]
Scale = Literal["ue4m3", "e8m0", "fp16", "bf16", "fp32"]
Bits = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32]

BITS: dict[Element, int] = {"fp4": 4, "int4": 4, "int8": 8, "fp8": 8, "coded": 8, "fp16": 16, "bf16": 16, "fp32": 32}
_DENSE: dict[str, Element] = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16"}
_FIXED: dict[tuple[str | None, int | None], Scale] = {("ue4m3", 16): "ue4m3", ("e8m0", 32): "e8m0"}
# The scales of each element that stay as they are; any other become fp32.
_KEPT: dict[Element, tuple[Scale, ...]] = {
    "fp4": ("ue4m3", "e8m0"),
    "fp8": ("e8m0",),
    "int4": ("fp16", "bf16"),
    "int8": ("fp16",),
}
_IN_E4M3 = ("fp8_e4m3", "fp6_e2m3", "fp6_e3m2")


@dataclass(frozen=True, slots=True)
class Packing:
    """How weights of a block are packed. ``width`` is the columns under one scale; None: all of them."""

    element: Element
    scale: Scale = "fp32"
    width: int | None = None
    offsets: bool = False

    def block_columns(self, columns: int) -> int:
        """Columns under one scale in rows of ``columns``."""
        return _rounded(columns, UNIT) if self.width is None else self.width

    def padded(self, columns: int) -> int:
        """``columns``, rounded up to whole units and whole blocks."""
        return _rounded(columns, max(self.block_columns(columns), UNIT))

    def nbytes(self, rows: int, columns: int) -> tuple[int, int, int]:
        """Bytes of lines, of scales and of offsets."""
        height, width = _rounded(rows, GROUP), self.padded(columns)
        blocks = height * (width // self.block_columns(columns))
        scale_bytes = formats.get(self.scale).storage_bits // 8
        return height * width * BITS[self.element] // 8, blocks * scale_bytes, blocks * 4 * self.offsets


@dataclass(frozen=True, slots=True)
class Band:
    """Rows of a weight, ready to be interleaved."""

    codes: Bits  # [rows, columns]
    flip: int  # xored to every code
    scales: Bits  # [rows, blocks]
    offsets: NDArray[np.float32] | None  # [rows, blocks]


@cache
def packing(block: Block) -> Packing:
    """How weights stored as ``block`` are packed."""
    fmt = block.element_format
    if block.scale is None:
        return Packing(_DENSE.get(fmt.name, "fp32"))
    if fmt.bits > 8:
        return Packing("fp32")
    element: Element = "coded"
    if fmt.name == "fp4_e2m1":
        element = "fp4"
    elif fmt.name in _IN_E4M3:
        element = "fp8"
    elif isinstance(fmt, Int):
        element = "int4" if fmt.bits <= 4 else "int8"
    width = _width(block)
    scale = _FIXED.get((block.scale, width)) or ("fp16" if block.scale == "fp16" else "bf16")
    if scale != block.scale or scale not in _KEPT.get(element, ()):
        scale = "fp32"
    if width is not None and width % UNIT and scale != "ue4m3":
        return Packing("fp32")
    unsigned = isinstance(fmt, Int) and not fmt.signed
    return Packing(element, scale, width, offsets=unsigned or block.minimum)


def band(q: QTensor) -> Band:
    """The rows of ``q`` as its `packing` stores them. Raises FormatError where they hold NaN or Inf."""
    packed = packing(q.block)
    if packed.element == "fp32" and q.block.element != "fp32":
        return _dense(dequantize(q).view(np.uint32), packed.element)
    if q.block.scale is None:
        return _dense(q.codes, packed.element)
    scales = _per_row(q.block, q.scales, len(q.codes))
    codes, flip = _codes(q, packed.element)
    return Band(codes, flip, dispatch.encode(formats.get(packed.scale), scales), _offsets(q, scales))


def table(block: Block) -> NDArray[np.float32]:
    """The values of all codes of ``block``'s elements, padded to 256, for those that are packed as ``coded``."""
    values = np.zeros(256, np.float32)
    known = reference.value_table(block.element_format)
    values[: len(known)] = known
    return values


def _dense(codes: Bits, element: Element) -> Band:
    infinity = {"fp32": 0x7F800000, "bf16": 0x7F80, "fp16": 0x7C00}[element]
    magnitudes = codes & codes.dtype.type((1 << BITS[element] - 1) - 1)
    if magnitudes.size and int(magnitudes.max()) >= infinity:
        raise _not_finite()
    one = np.full((len(codes), 1), np.float32(1).view(np.uint32))
    return Band(codes, 0, one, None)


def _codes(q: QTensor, element: Element) -> tuple[NDArray[np.uint8], int]:
    """Codes as the element's kernels read them, and what is still to be xored to them."""
    fmt = q.block.element_format
    if element == "fp4":
        return q.codes, 0
    if isinstance(fmt, Int):
        middle = 1 << BITS[element] - 1 if fmt.signed else 0
        if fmt.bits == BITS[element]:
            return q.codes, middle
        return (reference.value_table(fmt).astype(np.int16) + middle).astype(np.uint8)[q.codes], 0
    values = reference.value_table(fmt)
    finite = np.isfinite(values)
    if not finite.all() and not finite[q.codes].all():
        raise _not_finite()
    if element == "coded" or fmt.name == "fp8_e4m3":
        return q.codes, 0
    return dispatch.encode(formats.get("fp8_e4m3"), values).astype(np.uint8)[q.codes], 0


def _per_row(block: Block, numbers: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """Scales or the like [rows, blocks], of blocks that may be higher than a row."""
    height, _ = block.tile(rows, 1) if not isinstance(block.block_size, int) else (1, 1)
    return numbers if height == 1 else np.repeat(numbers, height, axis=0)[:rows]


def _offsets(q: QTensor, scales: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """What is added to the values of each block: the kernels take ``code - middle`` times the scale."""
    if not packing(q.block).offsets:
        return None
    fmt = q.block.element_format
    offsets = np.zeros_like(scales)
    if isinstance(fmt, Int) and not fmt.signed:
        middle = np.float32(1 << BITS[packing(q.block).element] - 1)
        zeros = np.float32(0) if q.zeros is None else _per_row(q.block, q.zeros.astype(np.float32), len(q.codes))
        offsets += (middle - zeros) * scales * np.float32(q.tensor_scale or 1)
    if q.mins is not None:
        offsets += _per_row(q.block, q.mins, len(q.codes))
    return offsets


def _not_finite() -> FormatError:
    return FormatError("a weight holds NaN or Inf", hint="`halve verify` finds damaged tensors: fetch it again")


def _width(block: Block) -> int | None:
    match block.block_size:
        case int(size) | (_, int(size)):
            return size
        case _:
            return None


def _rounded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
