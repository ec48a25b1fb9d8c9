"""Block quantization through the native module."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from halve.codecs import dispatch, reference
from halve.formats import Float, Int
from halve.schemes.qtensor import QTensor
from halve.schemes.table import Block


def quantizes(block: Block) -> bool:
    """Whether the native module is there and has kernels for ``block``."""
    return dispatch.kernels() is not None and _fits(block)


@cache
def _fits(block: Block) -> bool:
    element, scale = block.element_format, block.scale_format
    if element.bits > 8 or not isinstance(scale, Float):
        return False
    if block.zero_point:
        return isinstance(element, Int) and not element.signed and scale.has_zero
    if block.scale == "e8m0":
        return isinstance(element, Float)
    # The signed rule, which integers admit, makes negative scales.
    return scale.has_zero and (scale.signed or not isinstance(element, Int))


def quantize(block: Block, w: NDArray[np.floating], rule: str, tensor_scale: float | None) -> QTensor | None:
    """What ``quantize_reference`` computes; None where ``w`` holds NaN or Inf."""
    kernels = dispatch.kernels()
    assert kernels is not None  # noqa: S101 - the caller asked `quantizes`
    assert block.scale_format is not None  # noqa: S101
    rows, columns = w.shape
    codes = np.empty((rows, columns), np.uint8)
    scales = np.empty(block.scale_shape(rows, columns), np.float32)
    zeros = np.empty(scales.shape, np.uint8) if block.zero_point else None
    finite = not w.size or kernels.quantize(
        dispatch.weight_bits(w),
        element=dispatch.codec(block.element_format),
        scale=dispatch.codec(block.scale_format),
        tile=block.tile(rows, columns),
        rule=rule,
        tensor_scale=tensor_scale,
        codes=codes,
        scales=scales,
        zeros=zeros,
    )
    return QTensor(block, codes, scales, tensor_scale, zeros) if finite else None


def dequantize(q: QTensor) -> NDArray[np.float32]:
    """What ``dequantize_reference`` computes. Raises FormatError for a code outside the element format."""
    kernels = dispatch.kernels()
    assert kernels is not None  # noqa: S101 - the caller asked `quantizes`
    values = np.empty(q.shape, np.float32)
    whole = not values.size or kernels.dequantize(
        dispatch.plain(q.codes),
        element=dispatch.codec(q.block.element_format),
        tile=q.block.tile(*q.shape),
        scales=dispatch.plain(q.scales),
        tensor_scale=q.tensor_scale,
        zeros=None if q.zeros is None else dispatch.plain(q.zeros),
        mins=None if q.mins is None else dispatch.plain(q.mins),
        values=values,
    )
    if not whole:
        reference.decode(q.block.element_format, q.codes)  # raises, naming the code
    return values
