"""Blocks with a minimum: what lies above the minimum is a weight like any other."""

from dataclasses import dataclass, replace

import numpy as np

from halve.algorithms.base import Prepared
from halve.schemes import Block
from halve.schemes import quantize as nearest
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import ScaleRule, Weights, _spread


def without_minimum(block: Block) -> Block:
    """The block that holds what lies above the minimum; ``block`` itself where it has none."""
    return replace(block, minimum=False)


def above_minimum(block: Block, inner: Prepared) -> Prepared:
    """``inner``, which is for ``without_minimum(block)``, for ``block``: minima are those of rounding to nearest."""
    return _AboveMinimum(block, inner) if block.minimum else inner


@dataclass(frozen=True, slots=True)
class _AboveMinimum:
    block: Block
    inner: Prepared

    def quantize(self, w: Weights, *, rule: ScaleRule | None = None, tensor_scale: float | None = None) -> QTensor:
        mins = nearest.quantize(self.block, w, rule=rule).mins
        assert mins is not None  # noqa: S101 - the block has a minimum
        with np.errstate(over="ignore"):
            above = w.astype(np.float32) - _spread(self.block, mins, w.shape)
        above = np.minimum(above, np.finfo(np.float32).max)
        found = self.inner.quantize(above, rule="max", tensor_scale=tensor_scale)
        return replace(found, block=self.block, mins=mins)
