"""What a unit must compute, bit for bit: halve's codecs, numpy's arithmetic, exact integers. No RTL."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halve.codecs import reference
from halve.formats import Float, Int
from halve.silicon.netlist import Codes
from halve.silicon.unit import FP32, Unit

_Reals = NDArray[np.float64]
_Integers = NDArray[np.int64]
_FLOAT64_BITS = 52  # integers below 2^52 are exact in float64, and so is half of one


@dataclass(frozen=True, slots=True)
class Expected:
    """The codes that must come out, and where any NaN will do (its sign and payload are free)."""

    codes: Codes
    nan: NDArray[np.bool_]


def expected(unit: Unit, inputs: Mapping[str, Codes]) -> Expected:
    """What ``unit`` must make of ``inputs``, codes by port."""
    if isinstance(unit.element, Int):
        return _integer(unit, unit.element, inputs)
    return _floating(unit, unit.element, inputs)


def is_nan(unit: Unit, codes: Codes) -> NDArray[np.bool_]:
    """Which outputs of ``unit`` are NaN."""
    fmt = unit.element
    if unit.kind in ("mac", "dot") and not unit.exact_accumulator:
        fmt = FP32
    elif unit.kind == "exact_product" and isinstance(fmt, Float):
        above = fmt.exponent + 1 + 2 * (fmt.mantissa + 1) + 2
        return np.asarray(codes >> np.uint64(above) == 1)
    elif unit.kind not in ("multiplier", "adder") or isinstance(fmt, Int):
        return np.zeros(len(codes), bool)
    with np.errstate(invalid="ignore"):
        return np.isnan(reference.decode(fmt, codes.astype(np.int64)))


def _integer(unit: Unit, fmt: Int, inputs: Mapping[str, Codes]) -> Expected:
    if unit.kind == "multiplier":
        product = twos(inputs["a"], fmt.bits) * twos(inputs["b"], fmt.bits)
        return _whole(product, 2 * fmt.bits)
    pairs = [("a", "b")] if unit.kind == "mac" else [(f"a{i}", f"b{i}") for i in range(unit.products)]
    products = [twos(inputs[a], fmt.bits) * twos(inputs[b], fmt.bits) for a, b in pairs]
    if unit.scale is None:
        return _whole(np.sum(products, axis=0) + inputs["c"].astype(np.int64), unit.accumulator_bits)
    count = len(inputs["c"])
    return _tile(unit, _groups(unit, products, inputs), inputs, nan=np.zeros(count, bool), infinite=np.zeros(count))


def _whole(values: _Integers, bits: int) -> Expected:
    mask = (1 << bits) - 1 if bits < 64 else -1
    return Expected((values & mask).astype(np.uint64), np.zeros(len(values), bool))


def twos(codes: Codes, bits: int) -> _Integers:
    """Values of two's complement codes."""
    values = codes.astype(np.int64)
    return values - ((values >> (bits - 1)) << bits)


def _floating(unit: Unit, fmt: Float, inputs: Mapping[str, Codes]) -> Expected:
    if unit.kind == "dot":
        return _dot(unit, fmt, inputs)
    a, b = (values(fmt, inputs[name], subnormals=unit.subnormals) for name in "ab")
    with np.errstate(all="ignore"):
        match unit.kind:
            case "multiplier":
                return _encoded(unit, fmt, a * b)  # exact in float64, so it is rounded once
            case "adder":
                return _encoded(unit, fmt, _sum(fmt, a, b))
            case "mac":
                product = _rounded(unit, FP32, a * b).astype(np.float32)
                c = values(FP32, inputs["c"], subnormals=unit.subnormals).astype(np.float32)
                return _encoded(unit, FP32, (product + c).astype(np.float64))
    return _fields(unit, fmt, inputs)


def values(fmt: Float, codes: Codes, *, subnormals: bool = True) -> _Reals:
    """Numbers of ``codes``; without subnormals, those are zeros."""
    with np.errstate(invalid="ignore"):
        numbers = reference.decode(fmt, codes.astype(np.int64)).astype(np.float64)
    return numbers if subnormals else _flush(fmt, numbers)


def _flush(fmt: Float, x: _Reals) -> _Reals:
    return np.where(np.abs(x) < fmt.smallest_normal, np.copysign(0.0, x), x)


def _sum(fmt: Float, a: _Reals, b: _Reals) -> _Reals:
    """``a + b``, such that rounding it to ``fmt`` rounds once: exact but for FP32, whose hardware sum is taken."""
    if fmt == FP32:
        return (a.astype(np.float32) + b.astype(np.float32)).astype(np.float64)
    total = a + b
    # What float64 lost becomes a last bit that is one (rounding to odd): nothing then looks like a tie that is none.
    lost = (a - (total - (total - a))) + (b - (total - a))
    odd = total.view(np.int64) & 1 == 1
    away = np.sign(lost) == np.sign(total)
    neighbour = np.where(away, np.nextafter(total, np.copysign(np.inf, total)), np.nextafter(total, 0))
    return np.where(np.isfinite(total) & (lost != 0) & ~odd, neighbour, total)


def _encoded(unit: Unit, fmt: Float, exact: _Reals) -> Expected:
    rounded = exact if unit.subnormals else _rounded(unit, fmt, exact)
    codes = reference.encode(fmt, rounded, saturate=False).astype(np.uint64)
    return Expected(codes, is_nan(unit, codes))


def _rounded(unit: Unit, fmt: Float, exact: _Reals) -> _Reals:
    """``exact`` rounded to ``fmt``. Without subnormals: to its precision in any range, then what is tiny is zero."""
    if not unit.subnormals:
        significand, exponent = np.frexp(exact)
        exact = np.ldexp(np.rint(np.ldexp(significand, fmt.mantissa + 1)), exponent - fmt.mantissa - 1)
        exact = _flush(fmt, exact)
    return values(fmt, reference.encode(fmt, exact, saturate=False).astype(np.uint64))


def _fields(unit: Unit, fmt: Float, inputs: Mapping[str, Codes]) -> Expected:
    """Exact products, and their sums in fixed point: neither has a NaN to give, so codes count as fields."""
    x, y = (_Fields.of(fmt, inputs[name], subnormals=unit.subnormals) for name in "ab")
    sign, exponents, significand = x.sign ^ y.sign, x.exponent + y.exponent, x.significand * y.significand
    if unit.kind == "fixed_mac":
        shift = np.where(significand == 0, 0, exponents - 2)
        term = significand << shift
        return _whole(np.where(sign == 1, -term, term) + inputs["c"].astype(np.int64), unit.accumulator_bits)
    a, b = (values(fmt, inputs[name], subnormals=unit.subnormals) for name in "ab")
    with np.errstate(invalid="ignore"):
        product = a * b
    nan, inf = np.isnan(product), np.isinf(a) | np.isinf(b)
    codes = np.zeros(len(a), np.uint64)
    for field, bits in (
        (nan, 1),
        (inf & ~nan, 1),
        (sign, 1),
        (exponents, fmt.exponent + 1),
        (significand, 2 * fmt.mantissa + 2),
    ):
        codes = codes << np.uint64(bits) | field.astype(np.uint64)
    return Expected(codes, nan)


@dataclass(frozen=True, slots=True)
class _Fields:
    sign: _Integers
    exponent: _Integers
    significand: _Integers

    @classmethod
    def of(cls, fmt: Float, codes: Codes, *, subnormals: bool) -> "_Fields":
        magnitude = codes.astype(np.int64) & ((1 << fmt.exponent + fmt.mantissa) - 1)
        exponent, fraction = magnitude >> fmt.mantissa, magnitude & ((1 << fmt.mantissa) - 1)
        sign = codes.astype(np.int64) >> (fmt.bits - 1) if fmt.signed else np.zeros(len(codes), np.int64)
        tiny = exponent == 0
        significand = np.where(tiny, fraction if subnormals else 0, fraction | 1 << fmt.mantissa)
        return cls(sign, np.where(tiny, 1 if subnormals else 0, exponent), significand)


@dataclass(frozen=True, slots=True)
class _Term:
    """``significand * 2^exponent``: integers, of which a tile's window keeps the upper bits."""

    significand: _Integers  # signed
    exponent: _Integers
    bits: int  # that the significand may have, leading zeros included


def _dot(unit: Unit, fmt: Float, inputs: Mapping[str, Codes]) -> Expected:
    count = len(inputs["c"])
    nan, infinite = np.zeros(count, bool), np.zeros(count)
    terms, products = [], []
    for i in range(unit.products):
        pair = [inputs[f"a{i}"], inputs[f"b{i}"]]
        a, b = (values(fmt, codes, subnormals=unit.subnormals) for codes in pair)
        with np.errstate(invalid="ignore"):
            product = a * b
            nan |= np.isnan(product)
            infinite += np.where(np.isinf(product), product, 0)
        x, y = (_Fields.of(fmt, codes, subnormals=unit.subnormals) for codes in pair)
        if unit.fixed_point:
            finite = np.where(np.isfinite(product), product, 0.0)
            products.append(np.ldexp(finite, unit.fraction_bits).astype(np.int64))
        else:
            significand = np.where(x.sign ^ y.sign == 1, -1, 1) * x.significand * y.significand
            exponent = x.exponent + y.exponent - 2 * (fmt.bias + fmt.mantissa)
            terms.append(_Term(significand, exponent, 2 * fmt.mantissa + 2))
    if unit.fixed_point:
        terms = _groups(unit, products, inputs)
    return _tile(unit, terms, inputs, nan=nan, infinite=infinite)


def _groups(unit: Unit, products: list[_Integers], inputs: Mapping[str, Codes]) -> list[_Term]:
    """Sums of products in fixed point, times their scales where these have a mantissa."""
    terms = []
    for number, start in enumerate(range(0, unit.products, unit.group)):
        total: _Integers = np.sum(products[start : start + unit.group], axis=0)
        exponent, bits = np.full(len(total), -unit.fraction_bits), unit.sum_bits
        if unit.scale == "ue4m3":
            fmt = unit.scale_format
            for name in unit.scales[number]:
                scale = _Fields.of(fmt, inputs[name], subnormals=True)
                total = total * scale.significand
                exponent = exponent + scale.exponent - fmt.bias - fmt.mantissa
                bits += fmt.mantissa + 1
        terms.append(_Term(total, exponent, bits))
    return terms


def _tile(
    unit: Unit, terms: list[_Term], inputs: Mapping[str, Codes], *, nan: NDArray[np.bool_], infinite: _Reals
) -> Expected:
    """Align, cut, add and round; `halve.silicon.circuits.tile` says how."""
    shift = np.zeros(len(nan), np.int64)
    for name in (name for pair in unit.scales for name in pair):
        scale = reference.decode(unit.scale_format, inputs[name].astype(np.int64))
        nan = nan | np.isnan(scale)
        if unit.scale == "e8m0":
            shift += inputs[name].astype(np.int64) - unit.scale_format.bias
    c = _Fields.of(FP32, inputs["c"], subnormals=unit.subnormals)
    exponent = c.exponent - FP32.bias - FP32.mantissa - shift
    # One bit more than it has: FP32's leading bit has weight 1, a product's leading bit weight 2.
    terms = [*terms, _Term(np.where(c.sign == 1, -c.significand, c.significand), exponent, FP32.mantissa + 2)]
    tops = [np.where(term.significand != 0, term.exponent + term.bits, -10_000) for term in terms]
    top = np.max(tops, axis=0)
    total = np.zeros(len(nan), np.int64)
    for term, own in zip(terms, tops, strict=True):
        whole = np.abs(term.significand) << (unit.window - term.bits)
        kept = whole >> np.minimum(top - own, 63)
        total += np.where(term.significand < 0, -kept, kept)
    number = np.ldexp(_odd(total), top - unit.window + shift)
    with np.errstate(invalid="ignore"):
        accumulator = reference.decode(FP32, inputs["c"].astype(np.int64)).astype(np.float64)
        infinite = infinite + np.where(np.isinf(accumulator), accumulator, 0)
    number = np.where(infinite != 0, infinite, number)
    number = np.where(nan | np.isnan(accumulator) | np.isnan(infinite), np.nan, number)
    return _encoded(unit, FP32, number)


def _odd(x: _Integers) -> _Reals:
    """``x`` in float64, such that rounding it to FP32 rounds once: bits that do not fit become one that is odd."""
    extra = np.abs(x) >> _FLOAT64_BITS != 0
    high = np.abs(x) >> 10 << 10 | np.where(np.abs(x) & 1023 != 0, 1024, 0)
    return np.where(extra, np.copysign(high.astype(np.float64), x), x.astype(np.float64))
