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
    """Factors by tensor name: of the rows of what produces a channel, of the columns of what consumes it.

    A vector (a norm's weight, a bias) has rows only. The model computes what it computed, up to rounding in float32.
    """

    rows: Mapping[str, Factors] = field(default_factory=dict)
    columns: Mapping[str, Factors] = field(default_factory=dict)

    def __or__(self, other: "Folding") -> "Folding":
        """This one, then ``other``; no tensor has rows, or columns, in both."""
        return Folding({**self.rows, **other.rows}, {**self.columns, **other.columns})

    @property
    def tensors(self) -> set[str]:
        """Names of the tensors that change."""
        return {*self.rows, *self.columns}

    def apply(self, tensor: str, band: NDArray[np.float32], first_row: int) -> NDArray[np.float32]:
        """Rows from ``first_row`` on of ``tensor`` ([rows, columns], or [rows, 1] of a vector) as they become."""
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


def through_norm(weight: Factors, wanted: Factors, dtype: np.dtype[Any]) -> tuple[Factors, Factors]:
    """Factors of a norm's ``weight``, and of its consumers' columns, near 1 / ``wanted`` and ``wanted``.

    The norm is stored as ``dtype``: its consumers multiply back by exactly what the rounded norm has been divided by.
    """
    stored = (weight / wanted).astype(dtype).astype(np.float32)
    kept = (stored == 0) | ~np.isfinite(stored) | (weight == 0)
    stored = np.where(kept, weight, stored)
    back = np.divide(weight, stored, out=np.ones_like(weight), where=~kept)
    rows = np.divide(stored, weight, out=np.ones_like(weight), where=~kept)
    return rows, back
