"""The nodes that give a quantized weight's values back, and that round what is multiplied with it.

A weight is DequantizeLinear(codes, scales), in float32. Scales of fewer bits go through Cast first, those of NVFP4
through a DequantizeLinear of their own under the tensor scale, those of tiles through a Gather that repeats them.
Activations are QuantizeLinear and DequantizeLinear under a stored scale, or under scales that the graph computes from
the largest magnitude of each token, or of each block of its columns: what ONNX calls blocked quantization.
"""

import numpy as np

from halve.checkpoint.onnx_graph import DEQUANTIZED
from halve.checkpoint.onnx_types import BY_FORMAT, FLOAT, OnnxType
from halve.formats import Float
from halve.onnx.builder import Builder
from halve.onnx.parts import Parts
from halve.schemes import Block
from halve.schemes.quantize import scale_rules

_TINY = float(np.finfo(np.float32).tiny)


def weight(builder: Builder, stored: Parts, output: str, *, transposed: bool = True, kind: OnnxType = FLOAT) -> str:
    """Append the nodes whose ``output`` is a weight, and the weight's initializers.

    The output is [in, out], or [out, in] where it is not ``transposed``, in the type ``kind``.
    """
    for part in stored:
        builder.initializer(part)
    block, inputs = stored.block, 0 if stored.transposed else 1  # axis of the inputs
    operands = [stored.codes.name, _scales(builder, stored)] + ([stored.zeros.name] if stored.zeros else [])
    attributes = {}
    match block.block_size:
        case "row":
            attributes = {"axis": 1 - inputs}
        case int(width) | (_, int(width)):
            attributes = {"axis": inputs, "block_size": width}
    turned = stored.transposed != transposed
    whole = kind is FLOAT and not turned
    value = builder.add(
        "DequantizeLinear", *operands, output=output if whole else f"{output}{DEQUANTIZED}", **attributes
    )
    if kind is not FLOAT:
        value = builder.add("Cast", value, output="" if turned else output, to=kind.code)
    return builder.add("Transpose", value, output=output, perm=[1, 0]) if turned else value


def _scales(builder: Builder, stored: Parts) -> str:
    """The scales in float32, tile rows repeated."""
    scales, block = stored.scales.name, stored.block
    if stored.tensor_scale:
        scales = builder.add("DequantizeLinear", scales, stored.tensor_scale.name)
    elif stored.scales.type is not FLOAT:
        scales = builder.cast(scales)
    if isinstance(block.block_size, tuple):
        count, one = (builder.integers(n) for n in (stored.shape[0], 1))
        rows = builder.once("Range", builder.integers(0), count, one)
        tile = builder.once("Div", rows, builder.integers(block.block_size[0]))
        scales = builder.add("Gather", scales, tile, axis=1 if stored.transposed else 0)
    return scales


def inputs(builder: Builder, value: str, stored: Parts, kind: OnnxType = FLOAT) -> str:
    """Append the nodes that round ``value`` [..., in] as the scheme of a weight says; the rounded value.

    ``kind`` is the type of ``value``, and of the result; the arithmetic is float32.
    """
    block, columns = stored.scheme.activation, stored.shape[1]
    if block is None:
        return value
    scale = stored.input_scale.name if stored.input_scale else None
    if kind is not FLOAT:
        value = builder.cast(value)
    attributes = {}
    if scale is None or block.tensor_scale:
        scale = _dynamic(builder, _amax(builder, value, block), block, scale)
        attributes = {"axis": -1, "block_size": block.block_size if isinstance(block.block_size, int) else columns}
    codes = builder.once("QuantizeLinear", value, scale, output_dtype=BY_FORMAT[block.element].code, **attributes)
    rounded = builder.once("DequantizeLinear", codes, scale, **attributes)
    return rounded if kind is FLOAT else builder.cast(rounded, kind.code)


def _amax(builder: Builder, value: str, block: Block) -> str:
    """The largest magnitude of each row [..., 1], or of each of its blocks [..., blocks]."""
    last = builder.integers([-1])
    if not isinstance(block.block_size, int):
        return builder.once("ReduceMax", builder.once("Abs", value), last, keepdims=1)
    outer = builder.once("Shape", value, end=-1)
    shape = builder.once("Concat", outer, builder.integers([-1, block.block_size]), axis=0)
    blocks = builder.once("Reshape", value, shape)
    return builder.once("ReduceMax", builder.once("Abs", blocks), last, keepdims=0)


def _dynamic(builder: Builder, amax: str, block: Block, tensor_scale: str | None) -> str:
    """Scales in float32 from largest magnitudes, as `halve.schemes.quantize` states them; never zero."""
    element = block.element_format
    if block.scale == "e8m0":
        return _power_of_two(builder, amax, block)
    wanted = builder.once("Div", amax, builder.floats(element.max))
    if tensor_scale is None:
        return builder.once("Max", wanted, builder.floats(_TINY))
    scale_format = block.scale_format
    assert isinstance(scale_format, Float)  # noqa: S101 - a table row with a tensor scale has float block scales
    codes = builder.once("QuantizeLinear", wanted, tensor_scale, output_dtype=BY_FORMAT["fp8_e4m3"].code)
    scales = builder.once("DequantizeLinear", codes, tensor_scale)
    least = builder.once("Mul", tensor_scale, builder.floats(scale_format.smallest))
    return builder.once("Max", scales, least)


def _power_of_two(builder: Builder, amax: str, block: Block) -> str:
    """E8M0 scales by the default rule of ``block``: rounded up, or down after what `even` rounds."""
    element, e8m0 = block.element_format, BY_FORMAT["e8m0"].code
    assert isinstance(element, Float)  # noqa: S101 - E8M0 scales go with float elements in every row of the table
    if scale_rules(block)[0] == "rceil":
        wanted = builder.once("Div", amax, builder.floats(element.max))
        wanted = builder.once("Max", wanted, builder.floats(_TINY))
        return builder.cast(builder.cast(wanted, e8m0, round_mode="up"))
    # amax rounded to the element's mantissa reaches the next power of two from this significand on.
    carry = 2 - 2.0 ** -(element.mantissa + 1)
    wanted = builder.once("Max", builder.once("Div", amax, builder.floats(carry)), builder.floats(_TINY))
    power = builder.cast(builder.cast(wanted, e8m0, round_mode="down"))
    largest = (element.max_code >> element.mantissa) - element.bias
    return builder.once("Mul", power, builder.floats(2.0 ** (1 - largest)))
