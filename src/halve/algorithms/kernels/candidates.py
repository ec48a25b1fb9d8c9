"""Which scales a search tries for a block, besides the one that the scale rule gives."""

from dataclasses import dataclass

from halve.formats import Float, Int
from halve.schemes import Block


@dataclass(frozen=True, slots=True)
class Candidates:
    """The scales that are tried for a block.

    Those of ``neighbours`` (so many codes of the scale format below and above the rule's), and the block's extent
    divided by each of ``divisors``. With zero points, each under zero points shifted by up to
    ``zero_shifts`` either way. The best is then moved ``refinements`` times to where its own codes fit best, by least
    squares, where that pays.
    """

    neighbours: tuple[int, int] = (0, 0)
    divisors: tuple[float, ...] = ()
    zero_shifts: int = 0
    refinements: int = 0


def exact(block: Block) -> Candidates:
    """Enough candidates to find the best scale of all, or one that is hardly worse (benchmarks/algorithms.py).

    Scales of at most 8 bits are tried as far from the rule's as any was ever best by much. Wider scales are tried on a
    geometric grid and refined: integers from leaving a little of their range unused to clipping more than half of it,
    floats and codebooks through a binade.
    """
    element, scale = block.element_format, block.scale_format
    assert isinstance(scale, Float)  # noqa: S101 - callers have looked
    if scale.bits <= 8:
        return Candidates(neighbours=(8, 6) if scale.mantissa else (2, 2))
    if not isinstance(element, Int):
        return Candidates(divisors=_grid(element.max, 32, range(-20, 12)), refinements=2)
    if element.bits > 4:
        return Candidates(divisors=_grid(element.max, 64, range(-8, 40)), refinements=2)
    if block.zero_point:
        return Candidates(divisors=_grid(element.max, 16, range(-2, 10)), zero_shifts=3, refinements=2)
    return Candidates(divisors=_grid(element.max, 16, range(-3, 20)), refinements=2)


def _grid(largest: float, steps: int, of: range) -> tuple[float, ...]:
    """Divisors that are ``steps`` to the binade apart."""
    return tuple(largest * 2 ** (k / steps) for k in of)
