"""Diagonal rewrites: what a producer puts out is divided by a factor a channel, and its consumers multiply it back."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halve.schemes.statistics import Statistics

Factors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Folding:
    """By tensor name: what a norm becomes, factors of the rows of other producers, factors of the columns of consumers.

    A bias has rows only. The model computes what it computed, up to rounding in float32.
    """

    rows: Mapping[str, Factors] = field(default_factory=dict)
    columns: Mapping[str, Factors] = field(default_factory=dict)
    norms: Mapping[str, Factors] = field(default_factory=dict)

    def __or__(self, other: "Folding") -> "Folding":
        """This one, then ``other``; no tensor is a norm, or has rows, or columns, in both."""
        return Folding({**self.rows, **other.rows}, {**self.columns, **other.columns}, {**self.norms, **other.norms})

    @property
    def tensors(self) -> set[str]:
        """Names of the tensors that change."""
        return {*self.rows, *self.columns, *self.norms}

    def apply(self, tensor: str, band: NDArray[np.float32], first_row: int) -> NDArray[np.float32]:
        """Rows from ``first_row`` on of ``tensor`` ([rows, columns], or [rows, 1] of a vector) as they become."""
        if tensor in self.norms:
            return self.norms[tensor][first_row : first_row + len(band), None]
        rows, columns = self.rows.get(tensor), self.columns.get(tensor)
        if rows is not None:
            band = band * rows[first_row : first_row + len(band), None]
        return band if columns is None else band * columns

    def statistics(self, tensor: str, of_inputs: Statistics | None) -> Statistics | None:
        """Statistics of the inputs of the linear layer with weight ``tensor`` as they become."""
        columns = self.columns.get(tensor)
        if columns is None or of_inputs is None:
            return of_inputs
        s = np.float32(1) / columns
        hessian = of_inputs.hessian
        return replace(
            of_inputs,
            mean_square=of_inputs.mean_square * s * s,
            amax=of_inputs.amax * s,
            hessian=None if hessian is None else hessian * s * s[:, None],
        )


def through_norm(
    weight: Factors, wanted: Factors, dtype: np.dtype[Any], offset: float = 0.0
) -> tuple[Factors, Factors]:
    """What a norm's ``weight`` becomes, and factors of its consumers' columns near ``wanted``.

    The norm multiplies by ``offset`` + weight, as engines compute it in float32, and is stored as ``dtype``: its
    consumers multiply back by exactly what the rounded norm has been divided by. A channel that would become 0 or
    leave the range of ``dtype`` stays as it is.
    """
    before = weight + np.float32(offset)
    stored = (before / wanted - np.float32(offset)).astype(dtype).astype(np.float32)
    after = stored + np.float32(offset)
    kept = (after == 0) | ~np.isfinite(after) | (before == 0)
    back = np.divide(before, after, out=np.ones_like(before), where=~kept)
    return np.where(kept, weight, stored), back
