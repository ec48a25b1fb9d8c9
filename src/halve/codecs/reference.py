"""The reference codec: codes <-> values of any format, derived from its row. Slow, exact, the oracle of native code.

Arithmetic runs in float64, in which every float32 input and every scaled significand is exact, so each encode rounds
exactly once.
"""

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halve.codecs.rounding import Rounding, round_magnitude
from halve.errors import FormatError
from halve.formats import Codebook, Float, Format, Int

Codes = NDArray[np.unsignedinteger]


def code_dtype(fmt: Format) -> type[np.uint8 | np.uint16 | np.uint32]:
    """Smallest unsigned numpy dtype that holds a code of ``fmt``."""
    return np.uint8 if fmt.bits <= 8 else np.uint16 if fmt.bits <= 16 else np.uint32


def decode(fmt: Format, codes: ArrayLike) -> NDArray[np.float32]:
    """Values of ``codes``, exact in float32. Bits above the format's width must be zero.

    Raises FormatError for a code outside the format.
    """
    codes = np.asarray(codes)
    for extreme in (int(codes.max()), int(codes.min())) if codes.size else ():
        if 0 <= extreme < 1 << fmt.bits:
            continue
        raise FormatError(
            f"{fmt.name}: code {extreme} does not fit in {fmt.bits} bits",
            hint="mask the codes, or unpack them first",
        )
    if fmt.bits <= 16:
        values: NDArray[np.float32] = value_table(fmt)[codes]
        return values
    return _decode(fmt, codes)


@cache
def value_table(fmt: Format) -> NDArray[np.float32]:
    """All ``2**bits`` values in code order (read-only); formats of at most 16 bits."""
    table = _decode(fmt, np.arange(1 << fmt.bits))
    table.flags.writeable = False
    return table


def _decode(fmt: Format, codes: NDArray[np.integer]) -> NDArray[np.float32]:
    index = codes.astype(np.int64)
    match fmt:
        case Codebook():
            values: NDArray[np.float32] = np.array(fmt.values, np.float32)[index]
            return values
        case Int():
            wrapped = index - ((index >> (fmt.bits - 1)) << fmt.bits) if fmt.signed else index
            return wrapped.astype(np.float32)
        case Float():
            return _decode_float(fmt, index)


def _decode_float(fmt: Float, codes: NDArray[np.int64]) -> NDArray[np.float32]:
    magnitude_code = codes & ((1 << (fmt.exponent + fmt.mantissa)) - 1)
    field, fraction = magnitude_code >> fmt.mantissa, magnitude_code & ((1 << fmt.mantissa) - 1)
    subnormal = (field == 0) & (fmt.mantissa > 0)
    significand = np.where(subnormal, 0, 1 << fmt.mantissa) + fraction
    exponent = np.where(subnormal, fmt.min_exponent, field - fmt.bias) - fmt.mantissa
    magnitude = np.ldexp(significand.astype(np.float64), exponent)
    isnan = codes == fmt.nan_code if fmt.specials == "fnuz" else magnitude_code > fmt.max_code
    magnitude = np.where(isnan, np.nan, magnitude)
    if fmt.inf_code is not None:
        magnitude = np.where(magnitude_code == fmt.inf_code, np.inf, magnitude)
    negative = (codes >> (fmt.bits - 1) == 1) & fmt.signed
    signed: NDArray[np.float64] = np.where(negative, -magnitude, magnitude)
    return signed.astype(np.float32)


def encode(
    fmt: Format,
    values: ArrayLike,
    *,
    rounding: Rounding = "nearest_even",
    saturate: bool = True,
    rng: np.random.Generator | None = None,
) -> Codes:
    """Codes of the representable numbers that ``values`` round to.

    ``saturate=True`` clamps what is too large (Inf included) to the largest finite number. ``saturate=False`` gives Inf
    where the format has one, else NaN; a format that has neither (FP6, FP4, codebooks) clamps in both modes, and
    integers wrap (Inf clamps). The sign of zero is kept where the format has one. Unsigned floats turn negative numbers
    into NaN; E8M0, which has no zero and no Inf, turns Inf into NaN and zero into 2^-127 (saturating) or NaN.

    Raises FormatError for a NaN where the format has no NaN.
    """
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        x = np.asarray(values).astype(np.float64)
    isnan = np.isnan(x)
    if fmt.nan_code is None and isnan.any():
        raise nan_error(fmt, isnan)
    match fmt:
        case Codebook():
            codes = _encode_codebook(fmt, x, rounding, rng)
        case Int():
            codes = _encode_int(fmt, x, rounding, rng, saturate=saturate)
        case Float():
            codes = _encode_float(fmt, x, rounding, rng, saturate=saturate)
            codes[isnan] = 0 if fmt.nan_code is None else fmt.nan_code
    return codes.astype(code_dtype(fmt))


def nan_error(fmt: Format, isnan: NDArray[np.bool_]) -> FormatError:
    """The error for a NaN that ``fmt`` cannot hold, naming how many there are and where the first stands."""
    where = ", ".join(str(int(i)) for i in np.argwhere(isnan)[0])
    return FormatError(
        f"{fmt.name} has no NaN, and the input has {int(isnan.sum())} (first at index [{where}])",
        hint="repair the input, or use a format with NaN such as fp8_e4m3 or bf16",
    )


def _encode_float(
    fmt: Float, x: NDArray[np.float64], rounding: Rounding, rng: np.random.Generator | None, *, saturate: bool
) -> NDArray[np.int64]:
    infinite = np.isinf(x)
    a = np.where(np.isfinite(x), np.abs(x), 0.0)
    exponent = np.where(a > 0, np.maximum(np.frexp(a)[1].astype(np.int64) - 1, fmt.min_exponent), fmt.min_exponent)
    significand = round_magnitude(np.ldexp(a, fmt.mantissa - exponent), rounding, rng).astype(np.int64)
    # A significand that rounds up to the next power of two carries into the exponent field, which is what is wanted.
    code = significand + (exponent - fmt.min_exponent << fmt.mantissa)
    if not fmt.has_zero:
        code = np.maximum(code - 1, 0)

    overflow = (code > fmt.max_code) | infinite
    beyond = fmt.inf_code if fmt.inf_code is not None else fmt.nan_code
    if saturate or beyond is None:
        beyond = fmt.max_code
    code = np.where(overflow, np.where(infinite | (rounding != "toward_zero"), beyond, fmt.max_code), code)

    negative = np.signbit(x)
    if fmt.signed:
        keep_sign = negative if fmt.has_negative_zero else negative & (code != 0)
        return np.where(keep_sign, code | 1 << (fmt.bits - 1), code)
    code = np.where(negative & (x != 0), fmt.nan_code or 0, code)
    if not fmt.has_zero:
        code = np.where(infinite | ((x == 0) & (not saturate)), fmt.nan_code or 0, code)
    return code


def _encode_int(
    fmt: Int, x: NDArray[np.float64], rounding: Rounding, rng: np.random.Generator | None, *, saturate: bool
) -> NDArray[np.int64]:
    rounded = np.copysign(round_magnitude(np.abs(x), rounding, rng), x)
    clipped = np.clip(rounded, fmt.min, fmt.max)
    if not saturate:
        infinite = np.isinf(x)
        clipped = np.where(infinite, clipped, np.mod(np.where(infinite, 0, rounded), 2.0**fmt.bits))
    return clipped.astype(np.int64) & ((1 << fmt.bits) - 1)


def _encode_codebook(
    fmt: Codebook, x: NDArray[np.float64], rounding: Rounding, rng: np.random.Generator | None
) -> NDArray[np.int64]:
    values = np.array(fmt.values, np.float32).astype(np.float64)
    x = np.clip(x, values[0], values[-1])
    low = np.clip(np.searchsorted(values, x, side="right") - 1, 0, len(values) - 2)
    below, above = values[low], values[low + 1]
    match rounding:
        case "nearest_even":
            middle = (below + above) / 2
            up = (x > middle) | ((x == middle) & (low % 2 == 1))
        case "toward_zero":
            up = (x < 0) & (x > below) | (x == above)
        case "away_from_zero":
            up = (x > 0) & (x > below) | (x == above)
        case "stochastic":
            up = round_magnitude((x - below) / (above - below), rounding, rng) > 0
    nearest: NDArray[np.int64] = low + up
    return nearest
