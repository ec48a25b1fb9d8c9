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
    """Enough candidates to find the best scale of all, or one that costs no measurable bit more.

    Scales of at most 8 bits are tried as far as any was ever best: two binades either way without a mantissa, three
    codes below to six above with one (benchmarks/algorithms.py compares with all codes). Wider scales are tried on a
    grid and refined: integers clip up to two fifths of their range, floats run through a binade.
    """
    element, scale = block.element_format, block.scale_format
    assert isinstance(scale, Float)  # noqa: S101 - callers have looked
    if scale.bits <= 8:
        return Candidates(neighbours=(3, 6) if scale.mantissa else (2, 2))
    if not isinstance(element, Int):
        return Candidates(divisors=tuple(element.max * 2 ** (k / 32) for k in range(-12, 20)), refinements=2)
    steps = 16 if element.bits <= 4 else 64
    grid = tuple(element.max * (1 + k / steps) for k in range(-steps // 8, steps * 5 // 8))
    return Candidates(divisors=grid, zero_shifts=2 if block.zero_point and element.bits <= 4 else 0, refinements=2)
