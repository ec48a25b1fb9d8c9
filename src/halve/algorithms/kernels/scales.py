"""The scale of every block that costs least.

Of each candidate scale the cost of a block is the sum of importance * (value - weight)^2, in squared steps: float32,
number after number. The first candidate is the scale rule's, and another must cost less to take its place.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from halve.algorithms.kernels import native
from halve.algorithms.kernels.candidates import Candidates
from halve.algorithms.kernels.values import Floats, nearest_values, running_sum
from halve.codecs import reference
from halve.formats import Float
from halve.schemes import Block
from halve.schemes.quantize import (
    ScaleRule,
    Weights,
    _range,
    _step,
    _store,
    _tiles,
    nonfinite_error,
    quantize_reference,
)

Zeros = NDArray[np.uint8]


def search(
    block: Block,
    w: Weights,
    importance: Floats,
    candidates: Candidates,
    *,
    rule: ScaleRule,
    tensor_scale: float | None,
) -> tuple[Floats, Zeros | None]:
    """Scales, and zero points where ``block`` has them, of the weight ``w`` [out, in].

    ``importance`` [in] weighs the errors of columns. Raises FormatError for NaN or Inf in ``w``.
    """
    if not native.available(block):
        return search_reference(block, w, importance, candidates, rule=rule, tensor_scale=tensor_scale)
    found = native.search(block, w, importance, candidates, rule=rule, tensor_scale=tensor_scale)
    if found is None:
        raise nonfinite_error(w)
    return found


def search_reference(
    block: Block,
    w: Weights,
    importance: Floats,
    candidates: Candidates,
    *,
    rule: ScaleRule,
    tensor_scale: float | None,
) -> tuple[Floats, Zeros | None]:
    """What :func:`search` finds, in plain numpy."""
    base = quantize_reference(block, w, rule=rule, tensor_scale=tensor_scale)
    if not base.scales.size:
        return base.scales, base.zeros
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        best = _Search(block, w, importance, rule, tensor_scale).run(base.scales, candidates)
    return best.scales, None if best.zeros is None else best.zeros.astype(np.uint8)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A scale for every block, and its zero points."""

    scales: Floats
    zeros: Floats | None


class _Search:
    def __init__(
        self, block: Block, w: Weights, importance: Floats, rule: ScaleRule, tensor_scale: float | None
    ) -> None:
        self.block = block
        self.rule = rule
        self.tensor_scale = tensor_scale
        tiles = _tiles(block, w.astype(np.float32))
        down, height, across, width = tiles.shape
        self.low, self.high = _range(tiles)
        self.amax = np.maximum(self.high, -self.low)
        self.numbers = tiles.transpose(1, 3, 0, 2).reshape(height * width, down, across)
        weights = np.pad(importance, (0, across * width - len(importance))).reshape(across, width)
        self.importance = np.tile(weights.T, (height, 1))[:, None]

    def run(self, base: Floats, candidates: Candidates) -> _Candidate:
        first = best = self.candidate(base, base)
        least = self.cost(first, first)
        for one in self.listed(first, candidates):
            best, least = self.better(best, least, one, self.cost(one, first))
        for _ in range(candidates.refinements):
            one = replace(self.candidate(self.refined(best), base), zeros=best.zeros)
            best, least = self.better(best, least, one, self.cost(one, first))
        return best

    def listed(self, first: _Candidate, candidates: Candidates) -> list[_Candidate]:
        below, above = candidates.neighbours
        offsets = [offset for offset in range(-below, above + 1) if offset]
        scales = [self.neighbour(first.scales, offset) for offset in offsets]
        scales += [self.divided(np.float32(divisor)) for divisor in candidates.divisors]
        unshifted = [first, *(self.candidate(one, first.scales) for one in scales)]
        shifts = [sign * shift for shift in range(1, candidates.zero_shifts + 1) for sign in (-1, 1)]
        return unshifted[1:] + [self.shifted(one, shift) for shift in shifts for one in unshifted]

    def candidate(self, scales: Floats, base: Floats) -> _Candidate:
        """Scales under which the largest value of the element would not be finite give way to the rule's."""
        element = self.block.element_format
        fits = np.isfinite(_step(scales, self.tensor_scale) * np.float32(element.max))
        scales = np.where(fits, scales, base)
        zeros = reference.encode(element, -self.low / scales).astype(np.float32) if self.block.zero_point else None
        return _Candidate(scales, zeros)

    def neighbour(self, base: Floats, offset: int) -> Floats:
        stored = self.block.scale_format
        assert isinstance(stored, Float)  # noqa: S101 - scales are floats in every row of the table
        codes = reference.encode(stored, np.abs(base)).astype(np.int64) + offset
        codes = np.clip(codes, 1 if stored.has_zero else 0, stored.max_code)
        return np.copysign(reference.decode(stored, codes.astype(np.uint8)), base)

    def divided(self, divisor: np.float32) -> Floats:
        if self.block.zero_point:
            half_range = self.high * np.float32(0.5) - self.low * np.float32(0.5)
            wanted = half_range / (divisor * np.float32(0.5))
        elif self.rule == "signed":
            wanted = np.where(self.high > -self.low, self.high, self.low) / -divisor
        else:
            wanted = self.amax / divisor / np.float32(1 if self.tensor_scale is None else self.tensor_scale)
        return _store(self.block, wanted, self.amax)

    def shifted(self, one: _Candidate, shift: int) -> _Candidate:
        assert one.zeros is not None  # noqa: S101 - shifts go with zero points
        element = self.block.element_format
        return replace(one, zeros=np.clip(one.zeros + np.float32(shift), np.float32(element.min), element.max))

    def values(self, one: _Candidate) -> tuple[Floats, Floats]:
        """The numbers in steps, and the values next to them."""
        y = self.numbers * (np.float32(1) / _step(one.scales, self.tensor_scale))
        return y, nearest_values(self.block.element_format, y, one.zeros)

    def cost(self, one: _Candidate, first: _Candidate) -> Floats:
        """In squared steps of the first candidate."""
        y, values = self.values(one)
        miss = values - y
        cost = running_sum(miss * miss * self.importance)
        if one is first:
            return cost
        ratio = _step(one.scales, self.tensor_scale) / _step(first.scales, self.tensor_scale)
        return cost * (ratio * ratio)

    def refined(self, one: _Candidate) -> Floats:
        y, values = self.values(one)
        factor = running_sum(values * y * self.importance) / running_sum(values * values * self.importance)
        return _store(self.block, one.scales * np.where(factor > 0, factor, np.float32(1)), self.amax)

    @staticmethod
    def better(best: _Candidate, least: Floats, one: _Candidate, cost: Floats) -> tuple[_Candidate, Floats]:
        wins = cost < least
        zeros = None if best.zeros is None or one.zeros is None else np.where(wins, one.zeros, best.zeros)
        return _Candidate(np.where(wins, one.scales, best.scales), zeros), np.where(wins, cost, least)
