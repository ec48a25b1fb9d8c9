"""Where the numbers of a format lie, and how far apart: what the page Formats draws."""

from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, isfinite, log2
from typing import Any

from halve.errors import FormatError
from halve.formats import Format
from halve.formats.value import at_rank, below, ranks, smallest_positive

_LISTED = 400  # numbers that are drawn one by one
_COLUMNS = 200  # or counted, where there are more
_FINE = 64  # octaves up to which each is looked at in four places


@dataclass(frozen=True, slots=True)
class Line:
    """The finite numbers of a format from ``low`` to ``high``: ``values``, or how many are in each of equal columns."""

    format: Format
    low: float
    high: float
    total: int
    values: tuple[float, ...] | None
    counts: tuple[int, ...] | None

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "format": self.format.name,
            "low": self.low,
            "high": self.high,
            "total": self.total,
            "values": self.values,
            "counts": self.counts,
        }


def line(fmt: Format, low: float, high: float, *, logarithmic: bool = False) -> Line:
    """The numbers of ``fmt`` in [low, high]. Columns are of equal width on a linear or a logarithmic axis.

    Raises FormatError for ends that are no interval, or not of positive numbers where the axis is logarithmic.
    """
    if not (isfinite(low) and isfinite(high) and isfinite(high - low) and low < high and (low > 0 or not logarithmic)):
        kind = "positive, finite" if logarithmic else "finite"
        raise FormatError(f"{low:g} to {high:g} is no interval of {kind} numbers", hint="give the lower end first")
    numbers = ranks(fmt)
    first = below(fmt, low)
    last = below(fmt, high)
    last += last < len(numbers) and at_rank(fmt, numbers[last]) == high
    if last - first <= _LISTED:
        values = tuple(at_rank(fmt, rank) for rank in numbers[first:last])
        return Line(fmt, low, high, last - first, values, None)
    if logarithmic:
        edges = [low * (high / low) ** (i / _COLUMNS) for i in range(_COLUMNS)]
    else:
        edges = [low + (high - low) * (i / _COLUMNS) for i in range(_COLUMNS)]
    before = [first, *(below(fmt, edge) for edge in edges[1:]), last]
    return Line(fmt, low, high, last - first, None, tuple(after - count for count, after in pairwise(before)))


@dataclass(frozen=True, slots=True)
class Precision:
    """The largest relative error of rounding to nearest, at ``magnitudes``."""

    format: Format
    magnitudes: tuple[float, ...]
    errors: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {"format": self.format.name, "magnitudes": self.magnitudes, "errors": self.errors}


def precision(fmt: Format) -> Precision:
    """Half the distance between neighbours over their magnitude, for the positive numbers of ``fmt``.

    >>> from halve import formats
    >>> max(precision(formats.get("bf16")).errors[20:])
    0.00390625
    """
    numbers = ranks(fmt)
    low, high = log2(smallest_positive(fmt)), log2(fmt.max)
    parts = 4 if high - low <= _FINE else 1
    magnitudes = [2.0 ** (i / parts) for i in range(ceil(low * parts), floor(high * parts) + 1)]
    errors = []
    for x in magnitudes:
        above = below(fmt, x)
        above += at_rank(fmt, numbers[above]) == x  # the distance from a number itself is that to the next above it
        above = min(above, len(numbers) - 1)  # at the largest number, that to the one before
        gap = at_rank(fmt, numbers[above]) - (at_rank(fmt, numbers[above - 1]) if above else 0.0)
        errors.append(gap / 2 / x)
    return Precision(fmt, tuple(magnitudes), tuple(errors))
