"""What a netlist is tried on: every pair of codes where these are few, else codes that crowd where mistakes hide."""

from collections.abc import Iterable

import numpy as np

from halve.codecs import reference
from halve.formats import Float, Int
from halve.silicon.model import expected, values
from halve.silicon.netlist import Codes
from halve.silicon.unit import FP32, Unit

EXHAUSTIVE_BITS = 8
WIDE = 100_000  # vectors where pairs are too many to try all
_UNIFORM, _CORNER, _EDGE = range(3)


def vectors(unit: Unit, *, seed: int = 0) -> dict[str, Codes]:
    """Inputs by port: at least `WIDE` cases, or all pairs of two operands of at most 8 bits."""
    rng = np.random.default_rng(seed)
    if unit.kind == "dot":
        return _tile(unit, WIDE, rng)
    bits = unit.element.bits
    if bits <= EXHAUSTIVE_BITS:
        a, b = (side.ravel() for side in np.meshgrid(*[np.arange(1 << bits, dtype=np.uint64)] * 2))
        if len(unit.ports) == 3:  # each pair with several accumulators
            repeats = -(-WIDE // len(a))
            a, b = np.tile(a, repeats), np.tile(b, repeats)
    else:
        a, b = _operands(unit, WIDE, rng)
    inputs = {"a": a, "b": b}
    if len(unit.ports) == 3:
        inputs["c"] = _accumulators(unit, inputs, rng)
    return inputs


def _operands(unit: Unit, count: int, rng: np.random.Generator) -> tuple[Codes, Codes]:
    fmt = unit.element
    if isinstance(fmt, Int):
        return _integers(fmt.bits, count, rng), _integers(fmt.bits, count, rng)
    a, b = codes(fmt, count, rng), codes(fmt, count, rng)
    some = rng.random(count)
    if unit.kind == "adder":  # nearly equal numbers of opposite sign cancel
        return a, np.select([some < 0.4, some < 0.7], [_nearly_negated(fmt, a, rng), _near(fmt, a, rng)], b)
    return a, np.select([some < 0.35, some < 0.55], [_at_an_end(fmt, a, b, rng), _reciprocal(fmt, a, rng)], b)


def _at_an_end(fmt: Float, a: Codes, b: Codes, rng: np.random.Generator) -> Codes:
    """``b`` with an exponent that takes ``a * b`` to where it overflows, becomes subnormal or vanishes."""
    count, top, mantissa = len(a), (1 << fmt.exponent) - 1, np.uint64((1 << fmt.mantissa) - 1)
    low, high = rng.integers(-fmt.mantissa - 3, 4, count), top + rng.integers(-3, 3, count)
    field = np.where(rng.random(count) < 0.5, low, high) + fmt.bias - (a.astype(np.int64) >> fmt.mantissa & top)
    number = np.clip(field, 0, top).astype(np.uint64) << np.uint64(fmt.mantissa) | b & mantissa
    return np.asarray(number | b >> np.uint64(fmt.bits - 1) << np.uint64(fmt.bits - 1), np.uint64)


def _reciprocal(fmt: Float, a: Codes, rng: np.random.Generator) -> Codes:
    """Numbers whose product with ``a`` is next to a power of two: rounding up carries through the whole mantissa."""
    x = np.abs(values(fmt, a))
    x = np.where(np.isfinite(x) & (x > 0), x, 1.0)
    lowest, highest = np.log2(fmt.smallest), np.log2(fmt.max)
    wanted = np.exp2(np.rint(rng.uniform(lowest, highest, len(a)) + np.log2(x))) / x
    nearest = reference.encode(fmt, np.clip(wanted, fmt.smallest, fmt.max)).astype(np.int64)
    number = np.clip(nearest + rng.integers(-2, 3, len(a)), 0, fmt.max_code)
    return np.asarray(number | rng.integers(0, 2, len(a)) << fmt.bits - 1, np.uint64)


def codes(fmt: Float, count: int, rng: np.random.Generator) -> Codes:
    """Codes of which a third is uniform, a third special, a third sparse numbers of a few binades."""
    sort = rng.integers(0, 3, count)
    uniform = rng.integers(0, 1 << fmt.bits, count, dtype=np.uint64)
    sign = uniform >> np.uint64(fmt.bits - 1) << np.uint64(fmt.bits - 1)
    corner = rng.choice(np.array(sorted(_corners(fmt)), np.uint64), count)
    top = (1 << fmt.exponent) - 1
    fields = sorted({0, 1, 2, fmt.bias - 1, fmt.bias, fmt.bias + 1, top - 2, top - 1, top} & {*range(top + 1)})
    edge = rng.choice(np.array(fields, np.uint64), count) << np.uint64(fmt.mantissa) | _mantissas(fmt, count, rng)
    return np.select([sort == _UNIFORM, sort == _CORNER], [uniform, corner | sign], edge | sign)


def _mantissas(fmt: Float, count: int, rng: np.random.Generator) -> Codes:
    """Mantissas with at most two ones, or at most two zeros: trees that look for any bit, or all, see one differ."""
    bits = rng.integers(0, fmt.mantissa + 1, (2, count), dtype=np.uint64)  # one place is beyond the mantissa: no bit
    whole = np.uint64((1 << fmt.mantissa) - 1)
    sparse = (np.uint64(1) << bits[0] | np.uint64(1) << bits[1]) & whole
    return np.asarray(np.where(rng.random(count) < 0.5, sparse, sparse ^ whole), np.uint64)


def _corners(fmt: Float) -> set[int]:
    """Positive codes at the borders of what the format has: zero, subnormals, normals, the largest, Inf, NaN."""
    normal, one, top = 1 << fmt.mantissa, fmt.bias << fmt.mantissa, 1 << fmt.bits - 1
    near = {normal - 1, normal, normal + 1, one - 1, one, one + 1, fmt.max_code - 1, fmt.max_code}
    return {code for code in {0, 1, *near, fmt.inf_code or 0, (fmt.nan_code or 0) % top} if 0 <= code < top}


def _integers(bits: int, count: int, rng: np.random.Generator) -> Codes:
    ends = [0, 1, (1 << bits) - 1, 1 << bits - 1, (1 << bits - 1) - 1]
    uniform = rng.integers(0, 1 << bits, count, dtype=np.uint64)
    return np.where(rng.random(count) < 0.25, rng.choice(np.array(ends, np.uint64), count), uniform)


def _nearly_negated(fmt: Float, x: Codes, rng: np.random.Generator) -> Codes:
    """``-x`` with up to all bits of the mantissa, and at times one of the exponent, changed."""
    below = rng.integers(0, 1 << fmt.mantissa + 1, len(x), dtype=np.uint64)
    below >>= rng.integers(0, fmt.mantissa + 2, len(x), dtype=np.uint64)
    return x ^ below ^ np.uint64(1 << fmt.bits - 1)


def _near(fmt: Float, x: Codes, rng: np.random.Generator) -> Codes:
    """Numbers so near to ``x`` in exponent that a sum needs bits of both."""
    count, reach, top = len(x), fmt.mantissa + 4, (1 << fmt.exponent) - 1
    field = (x.astype(np.int64) >> fmt.mantissa & top) + rng.integers(-reach, reach + 1, count)
    number = np.clip(field, 0, top).astype(np.uint64) << np.uint64(fmt.mantissa) | _mantissas(fmt, count, rng)
    sign = rng.integers(0, 2, count, dtype=np.uint64) << np.uint64(fmt.bits - 1)
    return np.asarray(number | sign, np.uint64)


def _accumulators(unit: Unit, inputs: dict[str, Codes], rng: np.random.Generator) -> Codes:
    """Accumulators, many of which nearly cancel what is added to them, or are of its size."""
    count = len(next(iter(inputs.values())))
    if unit.exact_accumulator:
        return _integers(unit.accumulator_bits, count, rng)
    alone = expected(unit, inputs | {"c": np.zeros(count, np.uint64)}).codes
    some = rng.random(count)
    negated, near = _nearly_negated(FP32, alone, rng), _near(FP32, alone, rng)
    return np.select([some < 0.4, some < 0.7], [negated, near], codes(FP32, count, rng))


def _tile(unit: Unit, count: int, rng: np.random.Generator) -> dict[str, Codes]:
    operands = [port.name for port in unit.ports if port.name[0] in "ab"]
    inputs = dict(zip(operands, _vectors(unit, len(operands), count, rng), strict=True))
    for name in (name for pair in unit.scales for name in pair):
        inputs[name] = _scales(unit.scale_format, count, rng)
    inputs["c"] = _accumulators(unit, inputs, rng)
    return inputs


def _vectors(unit: Unit, ports: int, count: int, rng: np.random.Generator) -> Iterable[Codes]:
    """Operands of tiles: in most cases all are numbers, and of similar size in half, so that the sum is of all."""
    fmt = unit.element
    if isinstance(fmt, Int):
        yield from (_integers(fmt.bits, count, rng) for _ in range(ports))
        return
    special, similar = rng.random(count) < 0.1, rng.random(count) < 0.5
    for _ in range(ports):
        found = codes(fmt, count, rng)
        field = (1 << fmt.exponent - 1) + rng.integers(-2, 2, count)
        body = np.minimum(field << fmt.mantissa | rng.integers(0, 1 << fmt.mantissa, count), fmt.max_code)
        near = (body | rng.integers(0, 2, count) << fmt.bits - 1).astype(np.uint64)
        number = np.where(similar, near, _numbers(fmt, rng.integers(0, 1 << fmt.bits, count, dtype=np.uint64)))
        yield np.where(special & (rng.random(count) < 4 / ports), found, number)


def _numbers(fmt: Float, found: Codes) -> Codes:
    """``found`` with the largest number in place of what is none."""
    top = np.uint64(1 << fmt.bits - 1)
    lost = (found % top > fmt.max_code) | ((fmt.specials == "fnuz") & (found == top))
    return np.where(lost, np.uint64(fmt.max_code), found)


def _scales(fmt: Float, count: int, rng: np.random.Generator) -> Codes:
    """Scales near one, and any."""
    middle = fmt.bias << fmt.mantissa
    near = rng.integers(middle - 12, middle + 13, count, dtype=np.uint64)
    return np.where(rng.random(count) < 0.3, rng.integers(0, 1 << fmt.bits, count, dtype=np.uint64), near)
