"""Block quantization by rounding to nearest: arrays -> QTensor -> arrays.

`quantize` and `dequantize` use native kernels where there are some; `quantize_reference` and `dequantize_reference`
state the arithmetic, in float32 and in this order, and native code equals them bit for bit:

    want  = amax / element.max (/ tensor_scale)     by the scale rule below
    scale = want rounded to the stored scale format, never to zero; 1 for a block of zeros
    step  = scale / (1 / tensor_scale)              as compressed-tensors divides
    code  = nearest-even code of (weight / step), saturating (+ the zero point)

A block with a minimum stores its lowest weight, rounded like the scale; the scale is (highest - lowest) / element.max,
and a code that of (weight - minimum). llama.cpp's Q4_1 has the same scale and minimum; its codes are chosen before
those are rounded.
"""

from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from halve import formats
from halve.codecs import dispatch, reference
from halve.errors import FormatError, UnsupportedError
from halve.formats import Float, Int
from halve.schemes import native
from halve.schemes.qtensor import QTensor
from halve.schemes.table import Block

ScaleRule = Literal["max", "range", "signed", "floor", "even", "rceil"]
SCALE_RULES: tuple[ScaleRule, ...] = get_args(ScaleRule)
POWER_OF_TWO_RULES: tuple[ScaleRule, ...] = ("floor", "even", "rceil")

Weights = NDArray[np.floating]  # float32, float16 or ml_dtypes.bfloat16, [out, in]


def scale_rules(block: Block) -> tuple[ScaleRule, ...]:
    """Scale rules that ``block`` admits, the default first (reasons and figures: docs/decisions/002-scale-rules.md).

    With element maximum M and block maximum amax:

    - ``max``: amax / M
    - ``range``: amax / (M + 1/2), integers only: the middle of the outermost step
    - ``signed``: the element of largest magnitude lands on the most negative code exactly; the scale may be negative
    - ``floor``: 2^(floor(log2 amax) - floor(log2 M)), OCP MX 1.0 section 6.3
    - ``even``: ``floor`` after rounding amax to the element's mantissa width
    - ``rceil``: 2^ceil(log2(amax / M)): nothing saturates
    """
    if block.scale == "e8m0":
        return ("rceil", "even", "floor") if block.element_format.bits == 8 else ("even", "floor", "rceil")
    if not isinstance(block.element_format, Int) or block.zero_point or block.minimum:
        return ("max",)
    if block.tensor_scale or not (isinstance(block.scale_format, Float) and block.scale_format.signed):
        return ("max", "range")
    return ("signed", "range", "max") if block.element_format.bits <= 4 else ("max", "range", "signed")


def check_rule(block: Block, rule: ScaleRule | None) -> ScaleRule:
    """The rule to use. Raises UnsupportedError for a rule that ``block`` does not admit."""
    rules = scale_rules(block)
    if rule is None:
        return rules[0]
    if rule not in rules:
        raise UnsupportedError(
            f"scale rule {rule!r} does not apply to {block.element} with {block.scale} scales",
            hint=f"use {' or '.join(rules)}",
        )
    return rule


def tensor_scale(block: Block, amax: float) -> float | None:
    """The FP32 tensor scale under which ``amax`` is the largest representable value; None where ``block`` has none.

    It is a fixed point of x -> fl(1/fl(1/x)), so checkpoints that store the divisor (compressed-tensors) and those that
    store the multiplier (ModelOpt) hold the same number.
    """
    if not block.tensor_scale:
        return None
    if amax == 0:
        return 1.0
    assert isinstance(block.scale_format, Float)  # noqa: S101 - a table row with a tensor scale has float block scales
    wanted = np.float32(amax) / np.float32(block.scale_format.max * block.element_format.max)
    divisor = np.float32(1) / np.maximum(wanted, np.finfo(np.float32).tiny)
    return float(np.float32(1) / divisor)


def quantize(block: Block, w: Weights, *, rule: ScaleRule | None = None, tensor_scale: float | None = None) -> QTensor:
    """Quantize ``w`` [out, in] to the nearest codes of ``block``.

    ``tensor_scale`` is the factor shared by a fused group; by default it is taken from ``w``. ``w`` may be float32,
    float16 or ``ml_dtypes.bfloat16``.

    Raises FormatError for NaN or Inf in ``w`` (naming the first index) and for columns that the block size does not
    divide, UnsupportedError for a scale rule that ``block`` does not admit.
    """
    rule = check_rule(block, rule)
    block.tile(*_shape(w))
    ts = _tensor_scale(block, w, tensor_scale)
    if native.quantizes(block) and not block.minimum:
        q = native.quantize(block, w, rule, ts)
        if q is None:
            raise nonfinite_error(w)
        return q
    return quantize_reference(block, w, rule=rule, tensor_scale=ts)


def _shape(w: Weights) -> tuple[int, int]:
    if w.ndim != 2:
        raise FormatError(f"a weight is a matrix [out, in]; this array has shape {list(w.shape)}")
    return cast("tuple[int, int]", w.shape)


def _tensor_scale(block: Block, w: Weights, given: float | None) -> float | None:
    if not block.tensor_scale or given is not None:
        return given if block.tensor_scale else None
    return tensor_scale(block, absmax(w))


def absmax(w: Weights) -> float:
    """Largest magnitude in ``w``. Raises FormatError for NaN or Inf, naming the first index."""
    amax = dispatch.absmax(w)
    if not np.isfinite(amax):
        raise nonfinite_error(w)
    return amax


def nonfinite_error(w: Weights, first_row: int = 0) -> FormatError:
    """The error for NaN or Inf in ``w``, whose row 0 is row ``first_row`` of the tensor."""
    with np.errstate(invalid="ignore"):
        bad = ~np.isfinite(w.astype(np.float32))
    row, column = (int(i) for i in np.argwhere(bad)[0])
    return FormatError(
        f"{int(bad.sum())} values are not finite, the first ({float(w[row, column])}) at [{row + first_row}, {column}]",
        hint="repair the tensor, --ignore it, or keep it in its source type with --on-nonfinite keep",
    )


def quantize_reference(block: Block, w: Weights, *, rule: ScaleRule, tensor_scale: float | None) -> QTensor:
    """What :func:`quantize` computes, in plain numpy."""
    with np.errstate(invalid="ignore"):  # a signalling NaN warns where it is only copied
        x = w.astype(np.float32)
    if not np.isfinite(x).all():
        raise nonfinite_error(w)
    element = block.element_format
    if block.scale is None:
        return QTensor(block, dispatch.encode(element, x), np.empty((len(x), 0), np.float32))
    if block.minimum:
        return _above_minimum(block, x)
    tiles = _tiles(block, x)
    zeros = None
    with np.errstate(over="ignore", under="ignore"):
        if block.zero_point:
            low, high = _range(tiles)
            # Halves, because high - low may overflow; the quotient is the same, subnormal numbers apart.
            half_range = high * np.float32(0.5) - low * np.float32(0.5)
            scales = _store(block, half_range / np.float32(element.max / 2), np.maximum(high, -low))
            zeros = reference.encode(element, -low / scales).astype(np.uint8)
        else:
            scales = _scales(block, tiles, rule, np.float32(1 if tensor_scale is None else tensor_scale))
        step = _spread(block, _step(scales, tensor_scale), w.shape)
        if zeros is None:
            codes = reference.encode(element, x / step)
        else:
            codes = reference.encode(element, np.rint(x / step) + _spread(block, zeros, w.shape))
    return QTensor(block, codes, scales, tensor_scale, zeros)


def _above_minimum(block: Block, x: NDArray[np.float32]) -> QTensor:
    """Codes of what each weight is above the lowest of its block. There is no native kernel for these."""
    element = block.element_format
    blocks = x.reshape(*block.scale_shape(*_shape(x)), block.tile(*_shape(x))[1])
    low, high = blocks.min(-1), blocks.max(-1)
    with np.errstate(over="ignore", under="ignore"):
        half_range = high * np.float32(0.5) - low * np.float32(0.5)  # high - low may overflow
        scales = _store(block, half_range / np.float32(element.max / 2), half_range)
        mins = _rounded(block, low)
        steps = (blocks - mins[..., None]) / scales[..., None]
    return QTensor(block, dispatch.encode(element, steps).reshape(x.shape), scales, mins=mins)


def _tiles(block: Block, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """View of ``x``, padded with zeros to whole tiles, as [tile row, row, tile column, column]."""
    rows, columns = x.shape
    height, width = block.tile(rows, columns)
    down, across = block.scale_shape(rows, columns)
    padded = np.pad(x, ((0, down * height - rows), (0, across * width - columns)))
    return padded.reshape(down, height, across, width)


def _spread(block: Block, per_block: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Repeat one number a block over the block's elements."""
    height, width = block.tile(shape[0], shape[1])
    spread = per_block.repeat(height, 0).repeat(width, 1)[: shape[0], : shape[1]]
    return spread.astype(np.float32, copy=False)


def _step(scales: NDArray[np.float32], tensor_scale: float | None) -> NDArray[np.float32]:
    return scales if tensor_scale is None else scales / (np.float32(1) / np.float32(tensor_scale))


def _range(tiles: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The lowest and the highest number of each tile and zero."""
    return tiles.min((1, 3), initial=0), tiles.max((1, 3), initial=0)


def _scales(block: Block, tiles: NDArray[np.float32], rule: ScaleRule, tensor_scale: np.float32) -> NDArray[np.float32]:
    element = block.element_format
    amax = np.abs(tiles).max((1, 3), initial=0)
    if rule in POWER_OF_TWO_RULES:
        return _power_of_two(block, amax, rule)
    if rule == "signed":
        low, high = _range(tiles)
        amax = np.where(high > -low, high, low)
        return _store(block, amax / np.float32(element.min), amax)
    divisor = element.max + 0.5 if rule == "range" else element.max
    return _store(block, amax / np.float32(divisor) / tensor_scale, amax)


def _store(block: Block, wanted: NDArray[np.floating], extent: NDArray[np.floating]) -> NDArray[np.float32]:
    """Round wanted scales to the stored format, away from zero where they would vanish; 1 where the block is empty."""
    stored = block.scale_format
    assert isinstance(stored, Float)  # noqa: S101 - scales are floats in every row of the table
    scales = _rounded(block, wanted)
    scales = np.where(scales == 0, np.copysign(np.float32(stored.smallest), wanted), scales)
    return np.where(extent == 0, np.float32(1), scales)


def _rounded(block: Block, numbers: NDArray[np.floating]) -> NDArray[np.float32]:
    """``numbers`` as the scale's format holds them."""
    stored = formats.get(block.scale or "")
    return reference.decode(stored, reference.encode(stored, numbers))


def _power_of_two(block: Block, amax: NDArray[np.float32], rule: ScaleRule) -> NDArray[np.float32]:
    element = block.element_format
    assert isinstance(element, Float)  # noqa: S101 - E8M0 scales go with float elements in every row of the table
    largest = (element.max_code >> element.mantissa) - element.bias
    if rule == "rceil":
        bits = (amax / np.float32(element.max)).view(np.int32)
        # What is not above 2^-127, a subnormal with the top mantissa bit, has no exponent field to round up.
        exponent = np.where(bits <= 0x400000, -127, (bits + 0x7FFFFF >> 23) - 127)
    else:
        half_unit = 1 << (22 - element.mantissa) if rule == "even" else 0
        exponent = (amax.view(np.int32) + half_unit >> 23) - 127 - largest
    # Under a scale of 2^(128 - largest), which `even` and `rceil` want near 2^128, the element's maximum would be Inf.
    exponent = np.where(amax == 0, 0, np.clip(exponent, -127, 127 - largest))
    return np.ldexp(np.float32(1), exponent)


def dequantize(q: QTensor) -> NDArray[np.float32]:
    """The values [out, in] that ``q`` stands for, in float32."""
    return native.dequantize(q) if native.quantizes(q.block) else dequantize_reference(q)


def dequantize_reference(q: QTensor) -> NDArray[np.float32]:
    """What :func:`dequantize` computes, in plain numpy: ``(value - zero) * step + min``."""
    values = reference.decode(q.block.element_format, q.codes)
    if q.block.scale is None:
        return values
    with np.errstate(over="ignore", under="ignore"):
        if q.zeros is not None:
            values = values - _spread(q.block, q.zeros, q.shape)
        values = values * _spread(q.block, _step(q.scales, q.tensor_scale), q.shape)
        return values if q.mins is None else values + _spread(q.block, q.mins, q.shape)
