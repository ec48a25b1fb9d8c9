"""Dot-product tiles: an FP32 accumulator plus the sum of products of two short vectors, rounded once.

As tensor cores do it (Fasi, Higham, Mikaitis & Pranesh, Numerical behavior of NVIDIA tensor cores, PeerJ CS 2021):
terms are aligned to the largest exponent, the bits below a window are cut, and the sum is exact from there on. Where
the exponents of a format are so few that the whole sum fits the window, the products are added in fixed point instead,
and only the sum and the accumulator are aligned.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pyrtl import WireVector, concat, select

from halve.formats import Float
from halve.silicon.circuits import integer
from halve.silicon.circuits.floating import Product, exact_product, round_pack, unpack
from halve.silicon.circuits.wires import (
    all_bits,
    any_bit,
    any_of,
    constant,
    largest,
    magnitude,
    padded_below,
    shift_left,
    shift_right,
    signed,
    signed_sum,
    unsigned,
)
from halve.silicon.unit import EXPONENT_ORIGIN, FP32, Unit

_EXPONENT_BITS = 12  # of a term: above zero for any operands and scales


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """``(-1)^sign * significand * 2^(exponent - EXPONENT_ORIGIN - window + 2)``; a zero has exponent 0."""

    sign: WireVector
    exponent: WireVector
    significand: WireVector  # as wide as the window


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What the result is where it is not a number."""

    nan: WireVector
    positive: WireVector  # infinite
    negative: WireVector


def tile(
    unit: Unit,
    a: Sequence[WireVector],
    b: Sequence[WireVector],
    accumulator: WireVector,
    scales: Sequence[tuple[WireVector, WireVector]],
) -> WireVector:
    """``accumulator + sum(a[i] * b[i])`` in FP32, each group of products times its two scales."""
    flags = Flags(nan=constant(0, 1), positive=constant(0, 1), negative=constant(0, 1))
    terms: list[Term] = []
    if isinstance(unit.element, Float):
        products = [exact_product(unit.element, x, y, subnormals=unit.subnormals) for x, y in zip(a, b, strict=True)]
        flags = _flags(products)
        if not unit.fixed_point:
            terms = [_term(unit, unit.element, product) for product in products]
    if unit.fixed_point:
        for number, start in enumerate(range(0, unit.products, unit.group)):
            part = slice(start, start + unit.group)
            if isinstance(unit.element, Float):
                total = _fixed_sum(unit, unit.element, products[part])
            else:
                total = integer.dot(a[part], b[part])
            terms.append(_scaled(unit, total, scales[number] if unit.scale == "ue4m3" else None))
    # In E8M0 and in E4M3 alike, NaN is all bits one.
    nan = any_of([flags.nan, *(all_bits(scale) for pair in scales for scale in pair)])
    flags = Flags(nan=nan, positive=flags.positive, negative=flags.negative)
    shift = constant(0, _EXPONENT_BITS)
    if unit.scale == "e8m0":
        # The accumulator is divided by the scales instead, and the result multiplied: nothing else needs the range.
        ((x, y),) = scales
        shift = (unsigned(x + y, _EXPONENT_BITS) + constant(-2 * unit.scale_format.bias, _EXPONENT_BITS))[
            :_EXPONENT_BITS
        ]
    return _sum(unit, terms, accumulator, shift, flags)


def _flags(products: Sequence[Product]) -> Flags:
    return Flags(
        nan=any_of([product.nan for product in products]),
        positive=any_of([product.inf & ~product.sign for product in products]),
        negative=any_of([product.inf & product.sign for product in products]),
    )


def _term(unit: Unit, fmt: Float, product: Product) -> Term:
    exponent = unsigned(product.exponents, _EXPONENT_BITS) + constant(EXPONENT_ORIGIN - 2 * fmt.bias, _EXPONENT_BITS)
    return Term(
        sign=product.sign,
        exponent=select(product.zero, constant(0, _EXPONENT_BITS), exponent[:_EXPONENT_BITS]),
        significand=padded_below(product.significand, unit.window),
    )


def fixed(fmt: Float, product: Product, width: int) -> WireVector:
    """The product's magnitude in units of the smallest product that is not zero."""
    distance = (product.exponents - 2)[: fmt.exponent + 1]
    return shift_left(product.significand, distance, width)


def _fixed_sum(unit: Unit, fmt: Float, products: Sequence[Product]) -> WireVector:
    magnitudes = [fixed(fmt, product, unit.product_bits) for product in products]
    return signed_sum(magnitudes, [product.sign for product in products], unit.sum_bits + 1)


def _scaled(unit: Unit, signed_total: WireVector, scales: tuple[WireVector, WireVector] | None) -> Term:
    """A fixed-point sum as a term, multiplied by the scales where they have a mantissa."""
    sign, total = magnitude(signed_total)
    exponent, fraction = constant(0, _EXPONENT_BITS), unit.fraction_bits
    if scales is not None:
        fmt = unit.scale_format
        x, y = (unpack(fmt, scale) for scale in scales)
        width = 2 * (fmt.mantissa + 1)
        total = (total * (x.significand * y.significand)[:width])[: len(total) + width]
        fraction += 2 * fmt.mantissa
        exponent = unsigned(x.exponent + y.exponent, _EXPONENT_BITS) + constant(-2 * fmt.bias, _EXPONENT_BITS)
    exponent = exponent + constant(EXPONENT_ORIGIN - 2 + len(total) - fraction, _EXPONENT_BITS)
    return Term(
        sign=sign,
        exponent=select(any_bit(total), exponent[:_EXPONENT_BITS], constant(0, _EXPONENT_BITS)),
        significand=padded_below(total, unit.window),
    )


def _sum(unit: Unit, terms: Sequence[Term], accumulator: WireVector, shift: WireVector, flags: Flags) -> WireVector:
    """Align the terms and the accumulator, add and round."""
    c = unpack(FP32, accumulator, subnormals=unit.subnormals)
    exponent = (unsigned(c.exponent, _EXPONENT_BITS) + constant(EXPONENT_ORIGIN - FP32.bias, _EXPONENT_BITS) - shift)[
        :_EXPONENT_BITS
    ]
    accumulated = Term(
        sign=c.sign,
        exponent=select(c.zero, constant(0, _EXPONENT_BITS), exponent),
        significand=padded_below(concat(constant(0, 1), c.significand), unit.window),
    )
    terms = [*terms, accumulated]
    top = largest([term.exponent for term in terms])
    aligned = [shift_right(term.significand, (top - term.exponent)[:_EXPONENT_BITS]) for term in terms]
    width = unit.window + 1 + (len(terms) - 1).bit_length()
    negative, total = magnitude(signed_sum(aligned, [term.sign for term in terms], width))

    nan = flags.nan | c.nan
    positive, minus = flags.positive | (c.inf & ~c.sign), flags.negative | (c.inf & c.sign)
    infinite = positive | minus
    # round_pack reads `total` as a fraction with one bit before the point: its top bit has weight 2^(width - window).
    weight = FP32.bias - EXPONENT_ORIGIN + (width - 2) - (unit.window - 2)
    bits = _EXPONENT_BITS + 2
    return round_pack(
        FP32,
        select(infinite, minus, negative & any_bit(total)),
        (unsigned(top, bits) + signed(shift, bits) + constant(weight, bits))[:bits],
        total,
        nan=nan | (positive & minus),
        inf=infinite,
        subnormals=unit.subnormals,
    )
