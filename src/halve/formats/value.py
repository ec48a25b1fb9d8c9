"""One code at a time in plain Python: its value, its bit fields, its neighbours. No numpy: the command line is quick.

`halve.codecs.reference` computes the same for arrays; a test holds the two equal on every code.
"""

from bisect import bisect_left, bisect_right
from functools import partial
from math import inf, ldexp, nan
from typing import Literal

from halve.errors import FormatError
from halve.formats.table import Codebook, Float, Format, Int

Kind = Literal["zero", "subnormal", "normal", "inf", "nan"]


def value(fmt: Format, code: int) -> float:
    """The number that ``code`` stands for. Raises FormatError for a code outside the format."""
    if not 0 <= code < 1 << fmt.bits:
        raise FormatError(f"{fmt.name}: code {code} does not fit in {fmt.bits} bits", hint="unpack the codes first")
    match fmt:
        case Codebook():
            return fmt.values[code]
        case Int():
            return float(_rank(fmt, code))
        case Float():
            magnitude = _magnitude(fmt, code)
            negative = fmt.signed and code >> (fmt.bits - 1)
            unsigned = nan if kind(fmt, code) == "nan" else at_rank(fmt, magnitude)
            return -unsigned if negative else unsigned


def kind(fmt: Format, code: int) -> Kind:
    """What sort of number ``code`` is."""
    if not isinstance(fmt, Float):
        return "zero" if value(fmt, code) == 0 else "normal"
    magnitude = _magnitude(fmt, code)
    if fmt.specials == "fnuz" and code == fmt.nan_code:
        return "nan"
    if magnitude > fmt.max_code:
        return "inf" if magnitude == fmt.inf_code else "nan"
    if fmt.has_zero and magnitude >> fmt.mantissa == 0:
        return "subnormal" if magnitude else "zero"
    return "normal"


def fields(fmt: Format, code: int) -> str:
    """The bits of ``code``, most significant first, with ``|`` between sign, exponent and mantissa.

    >>> from halve import formats
    >>> fields(formats.get("fp8_e4m3"), 0x1D)
    '0|0011|101'
    """
    bits = f"{code:0{fmt.bits}b}"
    if not isinstance(fmt, Float):
        return bits
    sign, rest = (bits[:1], bits[1:]) if fmt.signed else ("", bits)
    return "|".join(part for part in (sign, rest[: fmt.exponent], rest[fmt.exponent :]) if part)


def ranks(fmt: Format) -> range:
    """Ranks of all finite numbers: consecutive integers in ascending order of value.

    Where a float or integer format has a zero, its rank is 0. Ranks turn questions of spacing into integer
    arithmetic: the neighbours of rank ``r`` are ``r - 1`` and ``r + 1``.
    """
    match fmt:
        case Codebook():
            return range(len(fmt.values))
        case Int():
            return range(int(fmt.min), int(fmt.max) + 1)
        case Float():
            return range(-fmt.max_code if fmt.signed else 0, fmt.max_code + 1)


def at_rank(fmt: Format, rank: int) -> float:
    """The number of rank ``rank``; one step beyond the largest is Inf where the format has it."""
    match fmt:
        case Codebook():
            return fmt.values[rank]
        case Int():
            return float(rank)
        case Float():
            if abs(rank) == fmt.inf_code:
                return inf if rank > 0 else -inf
            field, fraction = divmod(abs(rank), 1 << fmt.mantissa)
            if field == 0 and fmt.has_zero:
                magnitude = ldexp(fraction, fmt.min_exponent - fmt.mantissa)
            else:
                magnitude = ldexp((1 << fmt.mantissa) + fraction, field - fmt.bias - fmt.mantissa)
            return -magnitude if rank < 0 else magnitude


def below(fmt: Format, x: float) -> int:
    """How many finite numbers are less than ``x``. Formats of 2^32 numbers are bisected, not listed."""
    return bisect_left(ranks(fmt), x, key=partial(at_rank, fmt))


def smallest_positive(fmt: Format) -> float:
    """The finite number next above zero."""
    numbers = ranks(fmt)
    return at_rank(fmt, numbers[bisect_right(numbers, 0.0, key=partial(at_rank, fmt))])


def neighbours(fmt: Format, code: int) -> tuple[float | None, float | None]:
    """The next number below and above that of ``code``; None at either end of the format, and for NaN."""
    if kind(fmt, code) == "nan":
        return None, None
    rank, finite = _rank(fmt, code), ranks(fmt)
    beyond = int(isinstance(fmt, Float) and fmt.inf_code is not None)
    below = at_rank(fmt, rank - 1) if rank - 1 >= finite.start - beyond else None
    above = at_rank(fmt, rank + 1) if rank + 1 < finite.stop + beyond else None
    return below, above


def _magnitude(fmt: Float, code: int) -> int:
    return code & ((1 << (fmt.exponent + fmt.mantissa)) - 1)


def _rank(fmt: Format, code: int) -> int:
    match fmt:
        case Codebook():
            return code
        case Int():
            return code - ((code >> (fmt.bits - 1)) << fmt.bits) if fmt.signed else code
        case Float():
            magnitude = _magnitude(fmt, code)
            return -magnitude if fmt.signed and code >> (fmt.bits - 1) else magnitude
