"""Casting numbers to a format and looking at what became of them: ``halve cast`` and ``halve.cast``."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from itertools import islice
from math import inf, isfinite, isinf, isnan
from typing import Any, ClassVar
from warnings import catch_warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halve import formats
from halve.codecs import dispatch
from halve.codecs.reference import Codes
from halve.codecs.rounding import ROUNDINGS, Rounding
from halve.errors import FormatError, UnknownNameError
from halve.formats import Format
from halve.formats.info import exact, hex_float, json_number, short
from halve.formats.value import fields, neighbours

HTML_ROWS = 20


@dataclass(frozen=True, slots=True)
class CastNumber:
    """One number and what the cast made of it."""

    format: Format
    input: float
    code: int
    value: float

    @property
    def hex(self) -> str:
        """The code in hexadecimal."""
        return f"0x{self.code:0{-(-self.format.bits // 4)}x}"

    @property
    def fields(self) -> str:
        """The bits of the code: sign, exponent and mantissa."""
        return fields(self.format, self.code)

    @property
    def error(self) -> float:
        """What the cast added: value - input."""
        return 0.0 if self.value == self.input else self.value - self.input

    @property
    def relative_error(self) -> float:
        """Error over input; 0 where nothing changed, infinite where zero did."""
        if self.error == 0:
            return 0.0
        return self.error / abs(self.input) if self.input else self.error * inf

    @property
    def neighbours(self) -> tuple[float | None, float | None]:
        """The representable numbers next below and next above the value; None beyond the ends and for NaN."""
        return neighbours(self.format, self.code)

    @property
    def ulps(self) -> float:
        """Error in units of the distance between the value and its neighbour on the input's side.

        For floats this is the unit in the last place of the binade that holds the input. Beyond the end of the format
        the last distance counts on.
        """
        if self.error == 0 or not isfinite(self.error):
            return self.error
        below, above = self.neighbours
        near, far = (below, above) if self.error > 0 else (above, below)
        neighbour = far if near is None or isinf(near) else near
        return 0.0 if neighbour is None else self.error / abs(neighbour - self.value)

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values; what JSON cannot say is "nan", "inf" or "-inf"."""
        below, above = self.neighbours
        return {
            "input": json_number(self.input),
            "code": self.code,
            "hex": self.hex,
            "fields": self.fields,
            "value": json_number(self.value),
            "exact": exact(self.value),
            "hex_float": hex_float(self.value),
            "error": json_number(self.error),
            "relative_error": json_number(self.relative_error),
            "ulps": json_number(self.ulps),
            "below": None if below is None else json_number(below),
            "above": None if above is None else json_number(above),
        }


@dataclass(frozen=True, slots=True, eq=False)
class CastResult:
    """Codes and values, in the shape of what was cast."""

    format: Format
    rounding: Rounding
    saturate: bool
    seed: int
    inputs: NDArray[Any]
    codes: Codes
    values: NDArray[np.float32]

    columns: ClassVar[tuple[str, ...]] = (
        "input",
        "code",
        "bits",
        "value",
        "hex float",
        "error",
        "relative",
        "ulps",
        "below",
        "above",
    )

    @property
    def error(self) -> NDArray[np.float64]:
        """What the cast added, values - inputs; 0 where they are equal, infinities included."""
        x, values = self.inputs.astype(np.float64), self.values.astype(np.float64)
        with np.errstate(invalid="ignore"):
            error: NDArray[np.float64] = np.where(x == values, 0.0, values - x)
        return error

    def numbers(self) -> Iterator[CastNumber]:
        """One by one, in C order."""
        flat = zip(self.inputs.astype(np.float64).flat, self.codes.flat, self.values.flat, strict=True)
        for number, code, value in flat:
            yield CastNumber(self.format, float(number), int(code), float(value))

    def rows(self) -> Iterator[tuple[str | None, ...]]:
        """The cells of `columns`, a row for each number."""
        for n in self.numbers():
            below, above = n.neighbours
            yield (
                repr(n.input),
                n.hex,
                n.fields,
                short(n.value),
                hex_float(n.value),
                None if isnan(n.error) else f"{n.error:+.6g}",
                None if isnan(n.error) else f"{n.relative_error:+.3%}",
                None if isnan(n.error) else f"{n.ulps:+.3f}",
                None if below is None else short(below),
                None if above is None else short(above),
            )

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "format": self.format.name,
            "rounding": self.rounding,
            "saturate": self.saturate,
            "seed": self.seed if self.rounding == "stochastic" else None,
            "shape": list(self.inputs.shape),
            "numbers": [number.to_json() for number in self.numbers()],
        }

    def _repr_html_(self) -> str:
        lines = [[f"<th>{name}</th>" for name in self.columns]]
        lines += [[f"<td>{escape(cell or '')}</td>" for cell in row] for row in islice(self.rows(), HTML_ROWS)]
        body = "".join(f"<tr>{''.join(line)}</tr>" for line in lines)
        more = self.codes.size - HTML_ROWS
        tail = f"<p>and {more} more</p>" if more > 0 else ""
        title = f"{self.format.name}, {self.rounding}, {'saturating' if self.saturate else 'not saturating'}"
        return f"<table><caption>{title}</caption>{body}</table>{tail}"


def cast(
    x: ArrayLike,
    to: str | Format,
    *,
    rounding: Rounding = "nearest_even",
    saturate: bool = True,
    seed: int = 0,
) -> CastResult:
    """Round every number of ``x`` once, to a number of the format ``to``.

    >>> result = cast(0.1, "fp8_e4m3")
    >>> hex(result.codes), float(result.values), float(result.error)
    ('0x1d', 0.1015625, 0.0015624999999999944)

    ``saturate=False`` turns what is too large into Inf or NaN where the format has one (`halve.codecs.reference.encode`
    states the rules). ``seed`` makes stochastic rounding repeatable.

    Raises UnknownNameError for an unknown format or rounding, FormatError for what is not real numbers and for NaN
    where the format has none.
    """
    fmt = formats.get(to) if isinstance(to, str) else to
    if rounding not in ROUNDINGS:
        raise UnknownNameError("rounding", rounding, list(ROUNDINGS))
    inputs = _real(x)
    rng = np.random.default_rng(seed) if rounding == "stochastic" else None
    codes = np.asarray(dispatch.encode(fmt, inputs, rounding=rounding, saturate=saturate, rng=rng))
    return CastResult(fmt, rounding, saturate, seed, inputs, codes, np.asarray(dispatch.decode(fmt, codes)))


def _real(x: ArrayLike) -> NDArray[Any]:
    """``x`` as an array of real numbers that float64 holds exactly, so that nothing is rounded twice."""
    try:
        array = np.asarray(x)
        with np.errstate(invalid="ignore"), catch_warnings(action="ignore", category=np.exceptions.ComplexWarning):
            wide = array.astype(np.float64)
            exactly = array.dtype.itemsize < 8 or np.array_equal(wide.astype(array.dtype), array, equal_nan=True)
    except (TypeError, ValueError, OverflowError):
        array, exactly = np.array("no numbers"), False
    if array.dtype.kind not in "biufV":  # V: the floats of ml_dtypes
        raise FormatError(
            f"only real numbers can be cast, not {type(x).__name__}", hint="pass a number, a list or an array"
        )
    if not exactly:
        raise FormatError(
            f"{array.dtype} numbers that float64 cannot hold would be rounded twice", hint="pass them as float64"
        )
    return array
