"""Floating-point operands, products, sums and rounding, for any row of the table of formats."""

from dataclasses import dataclass

from pyrtl import WireVector, concat, select

from halve.formats import Float
from halve.silicon.circuits.wires import (
    all_bits,
    any_bit,
    constant,
    normalise,
    padded_below,
    shift_right_sticky,
    signed,
    unsigned,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """A code taken apart: ``(-1)^sign * significand * 2^(exponent - bias - mantissa)``, or not a number."""

    sign: WireVector
    exponent: WireVector  # biased; that of a subnormal number is 1
    significand: WireVector  # with its leading bit
    nan: WireVector
    inf: WireVector
    zero: WireVector


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """An exact product: ``(-1)^sign * significand * 2^(exponents - 2 * (bias + mantissa))``, or not a number."""

    sign: WireVector
    exponents: WireVector  # the sum of both, biased twice
    significand: WireVector
    nan: WireVector
    inf: WireVector
    zero: WireVector


def unpack(fmt: Float, code: WireVector, *, subnormals: bool = True) -> Operand:
    """Take ``code`` apart. Without subnormals, their codes are zeros."""
    magnitude = code[: fmt.exponent + fmt.mantissa]
    mantissa, exponent = magnitude[: fmt.mantissa], magnitude[fmt.mantissa :]
    sign = code[-1] if fmt.signed else constant(0, 1)
    tiny = ~any_bit(exponent)
    nan = inf = constant(0, 1)
    match fmt.specials:
        case "ieee":
            top, whole = all_bits(exponent), ~any_bit(mantissa)
            nan, inf = top & ~whole, top & whole
        case "fn":
            nan = all_bits(magnitude)
        case "fnuz":
            nan = sign & ~any_bit(magnitude)
    if not subnormals:
        significand = concat(~tiny, select(tiny, constant(0, fmt.mantissa), mantissa))
        return Operand(sign=sign, exponent=exponent, significand=significand, nan=nan, inf=inf, zero=tiny)
    return Operand(
        sign=sign,
        exponent=concat(exponent[1:], exponent[0] | tiny),
        significand=concat(~tiny, mantissa),
        nan=nan,
        inf=inf,
        zero=~any_bit(magnitude) & ~nan,
    )


def exact_product(fmt: Float, a: WireVector, b: WireVector, *, subnormals: bool = True) -> Product:
    """Multiply without rounding."""
    x, y = unpack(fmt, a, subnormals=subnormals), unpack(fmt, b, subnormals=subnormals)
    nan = x.nan | y.nan | (x.inf & y.zero) | (y.inf & x.zero)
    return Product(
        sign=x.sign ^ y.sign,
        exponents=x.exponent + y.exponent,
        significand=(x.significand * y.significand)[: 2 * (fmt.mantissa + 1)],
        nan=nan,
        inf=(x.inf | y.inf) & ~nan,
        zero=x.zero | y.zero,
    )


def multiply(fmt: Float, a: WireVector, b: WireVector, *, to: Float, subnormals: bool = True) -> WireVector:
    """``a * b`` of ``fmt``, rounded once to ``to``."""
    product = exact_product(fmt, a, b, subnormals=subnormals)
    width = max(fmt.exponent, to.exponent) + 2
    exponent = (unsigned(product.exponents, width) + constant(to.bias - 2 * fmt.bias + 1, width))[:width]
    significand = product.significand
    if not subnormals:
        # Significands in [1, 2) make a product in [1, 4): one multiplexer instead of a normaliser.
        two = significand[-1]
        significand = select(two, significand, concat(significand[:-1], constant(0, 1)))
        significand = select(product.zero, constant(0, len(significand)), significand)
        exponent = select(two, exponent, (exponent - 1)[:width])
    return round_pack(
        to,
        product.sign,
        exponent,
        significand,
        nan=product.nan,
        inf=product.inf,
        normal=not subnormals,
        subnormals=subnormals,
    )


def add(fmt: Float, a: WireVector, b: WireVector, *, subnormals: bool = True) -> WireVector:
    """``a + b`` of ``fmt``, rounded once: the smaller operand is aligned, with guard, round and sticky bits."""
    swap = b[: fmt.bits - 1] > a[: fmt.bits - 1]
    large = unpack(fmt, select(swap, b, a), subnormals=subnormals)
    small = unpack(fmt, select(swap, a, b), subnormals=subnormals)
    distance = (large.exponent - small.exponent)[: fmt.exponent]
    aligned, sticky = shift_right_sticky(concat(small.significand, constant(0, 3)), distance)
    aligned = concat(aligned[1:], aligned[0] | sticky)
    width = fmt.mantissa + 5
    subtract = large.sign ^ small.sign
    addend = unsigned(aligned, width) ^ subtract.sign_extended(width)
    total = (unsigned(concat(large.significand, constant(0, 3)), width) + addend + subtract)[:width]
    return round_pack(
        fmt,
        select(any_bit(total), large.sign, large.sign & small.sign),
        (concat(constant(0, 2), large.exponent) + 1)[: fmt.exponent + 2],
        total,
        nan=large.nan | small.nan | (large.inf & small.inf & subtract),
        inf=large.inf | small.inf,
        subnormals=subnormals,
    )


def round_pack(
    fmt: Float,
    sign: WireVector,
    exponent: WireVector,
    significand: WireVector,
    *,
    nan: WireVector,
    inf: WireVector,
    normal: bool = False,
    subnormals: bool = True,
) -> WireVector:
    """The code that ``significand / 2^(width - 1) * 2^(exponent - bias)`` rounds to, to nearest even.

    ``exponent`` is biased and in two's complement. ``normal``: the top bit of ``significand`` is one, or all are zero.
    Without subnormals, what is below the smallest normal number *after* rounding becomes zero. What is too large
    becomes Inf where the format has it, else NaN, else the largest number: `halve.codecs` with ``saturate=False``.
    """
    width = len(exponent) + 2
    exponent = signed(exponent, width)
    if not normal:
        significand, count = normalise(significand)
        exponent = (exponent - unsigned(count, width))[:width]
    precision = fmt.mantissa + 1
    significand = padded_below(significand, max(len(significand), precision + 2))
    tiny = exponent[-1] | ~any_bit(exponent)
    sticky = constant(0, 1)
    if subnormals:
        distance = select(tiny, (constant(1, width) - exponent)[:width], constant(0, width))
        significand, sticky = shift_right_sticky(significand, distance)
        field = select(tiny, constant(1, width), exponent)
        field = select(significand[-1], field, constant(0, width))
    else:
        field = exponent
    kept, guard, rest = significand[-precision:], significand[-precision - 1], significand[: -precision - 1]
    up = guard & (sticky | any_bit(rest) | kept[0])
    # A carry out of the mantissa goes into the exponent, which is what is wanted.
    code = (concat(field, kept[: fmt.mantissa]) + up)[: width + fmt.mantissa]
    if not subnormals:
        field = code[fmt.mantissa :]
        flush = field[-1] | ~any_bit(field) | ~significand[-1]
        code = select(flush, constant(0, width + fmt.mantissa), code)
    return _special(fmt, sign, code, nan=nan, inf=inf)


def _special(fmt: Float, sign: WireVector, code: WireVector, *, nan: WireVector, inf: WireVector) -> WireVector:
    """Sign and code, after overflow, Inf and NaN. Above the code's own bits, ``code`` has those of its exponent."""
    bits = fmt.exponent + fmt.mantissa
    below, over = code[:bits], any_bit(code[bits:])
    match fmt.specials:
        case "ieee":
            infinite = over | all_bits(below[fmt.mantissa :]) | inf
            below = select(infinite, constant(fmt.max_code + 1, bits), below)
            below = select(nan, constant(fmt.nan_code or 0, bits), below)
        case "fn":
            below = select(over | nan | inf, constant(fmt.max_code + 1, bits), below)
        case "fnuz":
            lost = over | nan | inf
            below = select(lost, constant(0, bits), below)
            sign = (sign & any_bit(below)) | lost
        case _:
            below = select(over | nan | inf, constant(fmt.max_code, bits), below)
    return concat(sign, below)
