"""The numbers of a format on an axis, drawn with characters."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import floor, log2

from halve.formats import Float, Format
from halve.formats.value import below, smallest_positive

DENSITY = ((16, "█"), (4, "▌"), (2, "┃"), (1, "│"))  # at least so many numbers in a column -> its mark
LEGEND = "│ one number, ┃ 2-3, ▌ 4-15, █ 16 or more; ╌ subnormal"


def linear(fmt: Format, width: int) -> list[str]:
    """Marks, axis and labels from the most negative to the largest number."""
    low, high = fmt.min, fmt.max
    step = (high - low) / (width - 1)
    marks = _marks(fmt, [low + (column - 0.5) * step for column in range(width + 1)])
    quarters = [(round(part * (width - 1)), f"{low + part * (high - low):.6g}") for part in (0, 0.25, 0.5, 0.75, 1)]
    return [marks, _axis(width, [at for at, _ in quarters]), _labels(quarters, width)]


def logarithmic(fmt: Format, width: int) -> list[str]:
    """Marks, axis and labels of the positive numbers, a factor of two always as wide."""
    low, high = log2(smallest_positive(fmt)), log2(fmt.max)
    step = (high - low) / (width - 1) or 1.0  # a format may have one positive number (int2)
    marks = _marks(fmt, [2 ** min(low + (column - 0.5) * step, 1023.0) for column in range(width + 1)])
    subnormal = round((log2(fmt.smallest_normal) - low) / step) if isinstance(fmt, Float) else 0
    powers = _powers(low, high, lambda power: round((power - low) / step), width)
    return [marks, _axis(width, [at for at, _ in powers], subnormal), _labels(powers, width)]


def overview(formats: Sequence[Format], width: int) -> Iterator[str]:
    """One bar a format, from its smallest positive to its largest number, on a common logarithmic axis."""
    names = max(len(fmt.name) for fmt in formats)
    width -= names + 1
    ends = [(smallest_positive(fmt), fmt) for fmt in formats]
    low, high = log2(min(smallest for smallest, _ in ends)), log2(max(fmt.max for fmt in formats))

    def column(x: float) -> int:
        return round((log2(x) - low) / (high - low) * (width - 1))

    for smallest, fmt in ends:
        start, stop = column(smallest), column(fmt.max) + 1
        normal = column(fmt.smallest_normal) if isinstance(fmt, Float) else start
        yield f"{fmt.name:>{names}} {' ' * start}{'╌' * (normal - start)}{'━' * (stop - normal)}"
    powers = _powers(low, high, lambda power: column(2.0**power), width)
    yield " " * (names + 1) + _axis(width, [at for at, _ in powers])
    yield " " * (names + 1) + _labels(powers, width)


def _marks(fmt: Format, edges: list[float]) -> str:
    """A mark for how many numbers lie between each two edges."""
    before = [below(fmt, edge) for edge in edges]
    counts = [after - count for count, after in pairwise(before)]
    return "".join(next((mark for least, mark in DENSITY if count >= least), " ") for count in counts)


def _axis(width: int, ticks: list[int], subnormal: int = 0) -> str:
    return "".join("┼" if at in ticks else "╌" if at < subnormal else "─" for at in range(width))


def _powers(low: float, high: float, column: Callable[[float], int], width: int) -> list[tuple[int, str]]:
    """Powers of two to label, as (column, label), no more than fit."""
    every = max(1, -(-8 * int(high - low) // width))
    first = -floor(-low)
    return [(column(power), f"2^{power}") for power in range(first, floor(high) + 1) if (power - first) % every == 0]


def _labels(labels: list[tuple[int, str]], width: int) -> str:
    """Labels centred under their columns, those left out that would touch the one before."""
    line = ""
    for at, label in labels:
        start = min(max(at - len(label) // 2, 0), width - len(label))
        if not line or start > len(line):
            line = line.ljust(start) + label
    return line
