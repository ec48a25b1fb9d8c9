"""What a unit calculates with: rows of the table of formats, and rows for formats that nobody has tabulated."""

import re

from halve import formats
from halve.errors import FormatError, UnknownNameError, UnsupportedError
from halve.formats import Float, Int
from halve.formats.table import Specials

MOST_INTEGER_BITS = 16
_FINITE_BITS, _ONE_NAN_BITS = 6, 8


def element(name: str) -> Float | Int:
    """The format ``name``: a row of the table, ``eXmY`` (sign, X exponent and Y mantissa bits) or ``intN``.

    An ``eXmY`` that the table has under another name is that row: ``e4m3`` is fp8_e4m3, ``e5m10`` fp16. Any other
    follows the habits of its width: no NaN up to 6 bits (as OCP MX), one NaN up to 8 (as E4M3), NaN and Inf above.

    >>> element("e4m3").name, element("e3m4").specials, element("e3m4").max
    ('fp8_e4m3', 'fn', 30.0)

    Raises UnknownNameError for what is no format, FormatError for one that cannot be, UnsupportedError for one that no
    unit multiplies.
    """
    if parts := re.fullmatch(r"e(\d{1,2})m(\d{1,2})", name):
        return _float(int(parts[1]), int(parts[2]))
    if (parts := re.fullmatch(r"int(\d{1,3})", name)) and name not in formats.FORMATS:
        return _int(int(parts[1]))
    try:
        row = formats.get(name)
    except UnknownNameError:
        raise UnknownNameError("format", name, [*elements(), "e3m4", "int5"]) from None
    if isinstance(row, (Float, Int)) and row.signed:
        return row
    what = "an index into a list of values" if not isinstance(row, (Float, Int)) else "without a sign"
    raise UnsupportedError(
        f"{name} is {what}: no unit here multiplies such numbers", hint=f"choose one of {', '.join(elements())}"
    )


def elements() -> list[str]:
    """Names of the rows that units calculate with."""
    return [row.name for row in formats.FORMATS.values() if isinstance(row, (Float, Int)) and row.signed]


def _float(exponent: int, mantissa: int) -> Float:
    for row in formats.FORMATS.values():
        match row:
            case Float(exponent=e, mantissa=m, signed=True, specials=s) if (e, m) == (
                exponent,
                mantissa,
            ) and s != "fnuz":
                return row
    name, bits = f"e{exponent}m{mantissa}", 1 + exponent + mantissa
    if not (2 <= exponent <= 8 and 1 <= mantissa <= 23):
        raise FormatError(
            f"{name}: a float here has 2 to 8 exponent bits and 1 to 23 mantissa bits",
            hint="with fewer exponent bits it is an integer (int4, int8); with more it does not fit FP32",
        )
    specials: Specials = "finite" if bits <= _FINITE_BITS else "fn" if bits <= _ONE_NAN_BITS else "ieee"
    bias = (1 << (exponent - 1)) - 1
    return Float(name=name, exponent=exponent, mantissa=mantissa, bias=bias, specials=specials, spec="no standard")


def _int(bits: int) -> Int:
    if not 2 <= bits <= MOST_INTEGER_BITS:
        raise FormatError(
            f"int{bits}: an integer here has 2 to {MOST_INTEGER_BITS} bits", hint="such as int4, int5 or int8"
        )
    return Int(name=f"int{bits}", bits=bits, spec="two's complement")
