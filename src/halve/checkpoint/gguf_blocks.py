"""ggml's block types: bytes of rows <-> codes, scales and minima. Facts read from ggml-common.h and ggml-quants.c.

| type | elements | bytes, in order | value |
|---|---|---|---|
| Q4_0 | 32 | scale FP16; 16 of codes | scale * (code - 8) |
| Q4_1 | 32 | scale FP16, minimum FP16; 16 of codes | scale * code + minimum |
| Q8_0 | 32 | scale FP16; 32 of codes | scale * code |
| MXFP4 | 32 | scale E8M0; 16 of codes | scale * E2M1(code) |
| NVFP4 | 64 | 4 scales UE4M3, one for 16 elements; 4 times 8 of codes | scale * E2M1(code), times the tensor's scale |

Codes of 4 bits that share a scale lie in halves: byte j holds element j in its low nibble, and in its high one the
element half a block further on. Numbers are little endian. A row is whole blocks, so rows may change places as bytes.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from halve import formats
from halve.checkpoint.gguf import ENCODINGS, Encoding
from halve.codecs import dispatch
from halve.codecs.reference import code_dtype
from halve.schemes import Block
from halve.schemes.qtensor import QTensor

BLOCKS: Mapping[str, Block] = MappingProxyType(
    {
        "Q4_0": Block(element="int4", scale="fp16", block_size=32),
        "Q4_1": Block(element="uint4", scale="fp16", block_size=32, minimum=True),
        "Q8_0": Block(element="int8", scale="fp16", block_size=32),
        "MXFP4": Block(element="fp4_e2m1", scale="e8m0", block_size=32),
        "NVFP4": Block(element="fp4_e2m1", scale="ue4m3", block_size=16, tensor_scale=True),
    }
)
_SIGNS = np.uint8(0x88)  # Q4_0 adds 8 to a code, which turns its sign bit in two's complement


def encoding_of(block: Block) -> Encoding | None:
    """The type that stores exactly ``block``; None where there is none."""
    return next((row for row in ENCODINGS.values() if BLOCKS.get(row.name) == block), None)


def row_bytes(encoding: Encoding, columns: int) -> int:
    """Bytes of a row of ``columns`` elements, which are whole blocks."""
    return columns // encoding.block_size * encoding.block_bytes


def pack(encoding: Encoding, q: QTensor) -> NDArray[np.uint8]:
    """Rows of ``q`` as bytes [rows, row bytes]. A tensor scale is no part of them."""
    rows, columns = q.shape
    block = BLOCKS[encoding.name]
    width = block.tile(rows, columns)[1]
    shape = rows, columns // encoding.block_size, -1
    codes = q.codes.astype(np.uint8, copy=False)
    if block.element_format.bits == 4:
        halves = codes.reshape(*q.scales.shape, 2, width // 2)
        codes = halves[:, :, 0] | halves[:, :, 1] << np.uint8(4)
        if block.element == "int4":
            codes = codes ^ _SIGNS
    parts = [q.scales] if q.mins is None else [q.scales[..., None], q.mins[..., None]]
    numbers = dispatch.encode(formats.get(block.scale or ""), np.concatenate(parts, axis=-1))
    head = numbers.astype(numbers.dtype.newbyteorder("<"), copy=False).reshape(shape).view(np.uint8)
    return np.concatenate([head, codes.reshape(shape)], axis=-1).reshape(rows, -1)


def unpack(encoding: Encoding, raw: NDArray[np.uint8], tensor_scale: float = 1.0) -> QTensor:
    """The inverse of `pack`: ``raw`` is [rows, row bytes]."""
    block = BLOCKS[encoding.name]
    scale = formats.get(block.scale or "")
    blocks = raw.reshape(len(raw), -1, encoding.block_bytes)
    columns = blocks.shape[1] * encoding.block_size
    across = block.scale_shape(len(raw), columns)[1]
    bits = block.element_format.bits
    codes = blocks[..., encoding.block_bytes - encoding.block_size * bits // 8 :]
    head = np.ascontiguousarray(blocks[..., : encoding.block_bytes - codes.shape[-1]])
    if bits == 4:
        packed = codes.reshape(len(raw), across, -1)
        if block.element == "int4":
            packed = packed ^ _SIGNS
        codes = np.concatenate([packed & 15, packed >> 4], axis=-1)
    numbers = dispatch.decode(scale, head.view(np.dtype(code_dtype(scale)).newbyteorder("<")))
    scales = numbers if not block.minimum else numbers[..., :1]
    return QTensor(
        block,
        codes.reshape(len(raw), columns),
        scales.reshape(len(raw), across),
        tensor_scale if block.tensor_scale else None,
        mins=numbers[..., 1:].reshape(len(raw), across) if block.minimum else None,
    )
