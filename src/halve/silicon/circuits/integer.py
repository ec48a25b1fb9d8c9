"""Products and sums of two's complement integers."""

from collections.abc import Sequence

from pyrtl import WireVector
from pyrtl.rtllib.adders import wallace_reducer

from halve.silicon.circuits.wires import carry_propagate, carry_save_sum, constant, signed


def multiply(a: WireVector, b: WireVector) -> WireVector:
    """The exact product, twice as wide: Baugh and Wooley's array (1973), summed by a Wallace tree.

    Terms with one sign bit are inverted and two constant ones set them right, so no operand has to be widened first.
    """
    n = len(a)
    columns: list[list[WireVector]] = [[] for _ in range(2 * n)]
    for i in range(n):
        for j in range(n):
            term = a[i] & b[j]
            columns[i + j].append(~term if (i == n - 1) != (j == n - 1) else term)
    columns[n].append(constant(1, 1))
    columns[2 * n - 1].append(constant(1, 1))
    return wallace_reducer(columns, 2 * n, carry_propagate)[: 2 * n]


def dot(a: Sequence[WireVector], b: Sequence[WireVector]) -> WireVector:
    """The exact sum of products."""
    width = 2 * len(a[0]) + (len(a) - 1).bit_length()
    return carry_save_sum([signed(multiply(x, y), width) for x, y in zip(a, b, strict=True)], width)


def accumulate(total: WireVector, accumulator: WireVector) -> WireVector:
    """``accumulator`` plus ``total``, modulo the accumulator's width."""
    width = len(accumulator)
    return (signed(total, width) + accumulator)[:width]
