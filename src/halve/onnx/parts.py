"""The initializers that a quantized weight becomes, and their bytes.

For a weight W [out, in] that a model calls ``X.weight``, in the order of the file:

| initializer | type | shape |
|---|---|---|
| ``X.weight_quantized`` | INT8, UINT4, FLOAT8E4M3FN, FLOAT4E2M1 ... | [in, out]; the first of two in a byte is low |
| ``X.weight_scale`` | FLOAT, FLOAT16, BFLOAT16, FLOAT8E8M0; FLOAT8E4M3FN under a tensor scale | see below |
| ``X.weight_zero_point`` | the codes' | the scale's |
| ``X.weight_tensor_scale`` | FLOAT | [] |
| ``X.input_scale`` | FLOAT | [] |

Scales are [out] for rows, [] for a tensor, [in / block, out] for blocks, [tiles of in, tiles of out] for tiles.

[in, out] is what MatMul takes, and what onnxruntime fuses with it into MatMulNBits. Codes of 4 bits are packed along
out; where that is odd, the weight stays [out, in] and a Transpose follows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halve import formats
from halve.checkpoint.base import DTYPES, Checkpoint, TensorInfo, read_array
from halve.checkpoint.onnx_types import BY_FORMAT, FLOAT, OnnxType
from halve.checkpoint.transposed import Columns
from halve.codecs import dispatch
from halve.codecs.reference import code_dtype
from halve.errors import FormatError
from halve.formats import Int
from halve.schemes import Block, Scheme
from halve.schemes.qtensor import QTensor

QUANTIZED, SCALE, ZERO_POINT, TENSOR_SCALE = "_quantized", "_scale", "_zero_point", "_tensor_scale"
INPUT_SCALE = ".input_scale"
_SCALES = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "e8m0": "e8m0", "ue4m3": "fp8_e4m3"}


@dataclass(frozen=True, slots=True)
class Part:
    """One initializer: its ONNX type and shape, and whether rows of the weight are its columns."""

    name: str
    type: OnnxType
    dims: tuple[int, ...]
    columns: bool = False

    @property
    def info(self) -> TensorInfo:
        """Its bytes."""
        return self.type.info(self.name, self.dims)


@dataclass(frozen=True, slots=True)
class Parts:
    """What one weight becomes."""

    scheme: Scheme
    shape: tuple[int, int]  # [out, in]
    transposed: bool  # whether codes are [in, out]
    codes: Part
    scales: Part
    zeros: Part | None = None
    tensor_scale: Part | None = None
    input_scale: Part | None = None

    @property
    def block(self) -> Block:
        """How the weight is stored."""
        return self.scheme.weight

    def __iter__(self) -> Iterator[Part]:
        parts = (self.codes, self.scales, self.zeros, self.tensor_scale, self.input_scale)
        return (part for part in parts if part is not None)


def refusal(block: Block) -> str:
    """Why DequantizeLinear cannot give the values of ``block``; empty where it can."""
    kind, element = BY_FORMAT.get(block.element), block.element_format
    unsigned = isinstance(element, Int) and not element.signed
    reasons = {
        f"ONNX's DequantizeLinear knows no {block.element}": kind is None or not kind.opset,
        "ONNX's DequantizeLinear adds no minimum": block.minimum,
        f"ONNX has no type for {block.scale} scales": block.scale not in _SCALES,
        "its graph has a tensor scale with UE4M3 scales, and only there": block.tensor_scale
        != (block.scale == "ue4m3"),
        "zero points belong to unsigned integers": block.zero_point and not unsigned,
        "its graph has no zero points for tiles": block.zero_point and isinstance(block.block_size, tuple),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def opset(scheme: Scheme) -> int:
    """The first version of ONNX's operators that has those which ``scheme`` takes."""
    if scheme.dense:
        return 1
    blocks = [scheme.weight] + ([scheme.activation] if scheme.activation else [])
    found = [13]  # axis of DequantizeLinear, Cast from BFLOAT16
    for block in blocks:
        kind = BY_FORMAT[block.element]
        found.append(kind.opset)
        if isinstance(block.block_size, int | tuple):
            found.append(21)  # block_size of QuantizeLinear and DequantizeLinear
        if block.scale == "e8m0":
            found.append(24)
    if scheme.activation:
        found.append(21)  # output_dtype of QuantizeLinear; a scale a token is a block as long as a row
    return max(found)


def parts(name: str, shape: tuple[int, int], scheme: Scheme) -> Parts:
    """What the weight ``name`` [out, in] becomes. Raises FormatError for sizes that do not fit."""
    rows, columns = shape
    block = scheme.weight
    kind = BY_FORMAT[block.element]
    if scheme.activation is not None:
        scheme.activation.tile(1, columns)  # raises for columns that its blocks do not divide
    transposed = rows * kind.bits % 8 == 0
    if not transposed and (columns * kind.bits % 8 or block.zero_point):
        raise FormatError(f"{rows} rows of {kind.bits}-bit codes do not end on a byte")
    scale_dims = expected_scales(block, shape, transposed=transposed)
    spread = transposed and len(scale_dims) == 2
    scale_kind = BY_FORMAT[_SCALES[block.scale or ""]]
    module = name.removesuffix(".weight")
    return Parts(
        scheme,
        shape,
        transposed,
        Part(f"{name}{QUANTIZED}", kind, shape[::-1] if transposed else shape, transposed),
        Part(f"{name}{SCALE}", scale_kind, scale_dims, spread),
        Part(f"{name}{ZERO_POINT}", kind, scale_dims, spread) if block.zero_point else None,
        Part(f"{name}{TENSOR_SCALE}", FLOAT, ()) if block.tensor_scale else None,
        Part(f"{module}{INPUT_SCALE}", FLOAT, ()) if scheme.activation_static else None,
    )


def expected_scales(block: Block, shape: tuple[int, int], *, transposed: bool) -> tuple[int, ...]:
    """The shape of the scales in the file."""
    down, across = block.scale_shape(*shape)
    match block.block_size:
        case "row":
            return (down,)
        case "tensor":
            return ()
    return (across, down) if transposed else (down, across)


def write(stored: Parts, q: QTensor, first_row: int, input_scale: float | None) -> dict[str, NDArray[Any]]:
    """Bytes of a band of rows: initializer -> array. Those with ``columns`` come column after column."""
    block = stored.block
    band: dict[str, NDArray[Any]] = {stored.codes.name: _packed(q.codes, stored.codes)}
    if block.block_size != "tensor" or not first_row:
        scale_format = stored.scales.type.number_format
        scales = dispatch.encode(formats.get(scale_format), q.scales)
        band[stored.scales.name] = scales.view(DTYPES[stored.scales.type.dtype])
        if stored.zeros is not None and q.zeros is not None:
            band[stored.zeros.name] = _packed(q.zeros, stored.zeros)
    if not first_row:
        for part, value in ((stored.tensor_scale, q.tensor_scale), (stored.input_scale, input_scale)):
            if part is not None and value is not None:
                band[part.name] = np.array(value, np.float32)
    return band


def read(checkpoint: Checkpoint, stored: Parts, start: int, stop: int, strips: Columns) -> QTensor:
    """Rows ``start..stop`` of a weight; ``start`` is a multiple of 128."""
    block = stored.block
    height = block.tile(*stored.shape)[0]
    first, last = start // height, -(-stop // height)
    scales = _rows(checkpoint, stored.scales, first, last, strips)
    scale_format = formats.get(stored.scales.type.number_format)
    values = dispatch.decode(scale_format, np.ascontiguousarray(scales).view(code_dtype(scale_format)))
    zeros = None if stored.zeros is None else _unpacked(checkpoint, stored.zeros, first, last, strips)
    return QTensor(
        block,
        _unpacked(checkpoint, stored.codes, start, stop, strips),
        values.reshape(last - first, -1),
        None if stored.tensor_scale is None else float(read_array(checkpoint, stored.tensor_scale.name)),
        None if zeros is None else zeros.reshape(last - first, -1),
    )


def _packed(codes: NDArray[Any], part: Part) -> NDArray[Any]:
    """Codes of some rows as bytes, along rows where these are columns of the file, else along columns."""
    bits = part.type.bits
    if bits >= 8:
        return np.ascontiguousarray(codes).view(DTYPES[part.type.dtype])
    if not part.columns and len(part.dims) == 2:
        return dispatch.pack(codes.astype(np.uint8, copy=False), bits)
    per_byte = 8 // bits
    packed = codes[::per_byte].astype(np.uint8)
    for place in range(1, per_byte):
        packed |= (codes[place::per_byte] << (bits * place)).astype(np.uint8)
    return packed


def _unpacked(checkpoint: Checkpoint, part: Part, first: int, last: int, strips: Columns) -> NDArray[Any]:
    """Inverse of `_packed` for rows ``first..last``."""
    bits = part.type.bits
    if bits >= 8:
        codes = _rows(checkpoint, part, first, last, strips)
        return np.ascontiguousarray(codes).view(np.uint8 if bits == 8 else np.uint16)
    if not part.columns and len(part.dims) == 2:
        return dispatch.unpack(_rows(checkpoint, part, first, last, strips), bits)
    per_byte = 8 // bits
    raw = _rows(checkpoint, part, first // per_byte, -(-last // per_byte), strips)
    codes = np.empty((len(raw) * per_byte, *raw.shape[1:]), np.uint8)
    for place in range(per_byte):
        codes[place::per_byte] = raw >> (bits * place) & ((1 << bits) - 1)
    return codes[: last - first]


def _rows(checkpoint: Checkpoint, part: Part, first: int, last: int, strips: Columns) -> NDArray[Any]:
    """Rows of the weight's own orientation, as they are stored."""
    if part.columns:
        return strips.read(checkpoint, part.name, first, last).T
    if not part.dims:
        return read_array(checkpoint, part.name).reshape(1)
    return read_array(checkpoint, part.name, first, last)
