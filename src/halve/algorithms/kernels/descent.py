"""Coordinate descent: codes and scales, one at a time, to where the output's change is least with all else as it is.

The cost of a row is e H e' with its errors e = weight - value and the damped Hessian H; e H is half its slope. Sweeps
go over the blocks from the left. A block's scale moves first, to the stored number next to the best one for the codes
that the block has, then its codes one by one. Nothing moves unless that lowers the cost.
"""

import numpy as np
from numpy.typing import NDArray

from halve.algorithms.kernels import native
from halve.algorithms.kernels.rows import Rows
from halve.algorithms.kernels.values import Floats, codes_of, nearest_values, values_of
from halve.codecs.reference import Codes
from halve.schemes.quantize import Weights, _step, _store

WIDEST_MOVING_BLOCK = 128  # columns: beyond, a block's scale stays (kDescentColumns in native/isa.h)
_UNSCALED_COLUMNS = 32  # kUnscaledColumns in native/gptq.inc


def moves_scales(rows: Rows) -> bool:
    """Whether a descent moves scales: those of blocks in one row that are not too wide."""
    height, _ = rows.block.tile(*rows.codes.shape)
    return height == 1 and rows.width <= WIDEST_MOVING_BLOCK


def descend(w: Weights, rows: Rows, hessian: Floats, *, damping: float, sweeps: int) -> tuple[Codes, Floats]:
    """Codes [out, in] and scales [out, blocks] of ``w`` after some sweeps down from those of ``rows``.

    ``damping`` is what counts as added to the diagonal of ``hessian`` [in, in].
    """
    if native.available(rows.block):
        return native.descend(w, rows, hessian, damping=damping, sweeps=sweeps, moves_scales=moves_scales(rows))
    return descend_reference(w, rows, hessian, damping=damping, sweeps=sweeps)


def descend_reference(w: Weights, rows: Rows, hessian: Floats, *, damping: float, sweeps: int) -> tuple[Codes, Floats]:
    """What :func:`descend` computes, in plain numpy."""
    descent = _Descent(w.astype(np.float32), rows, hessian, np.float32(damping))
    stretch = rows.width if moves_scales(rows) else _UNSCALED_COLUMNS
    columns = rows.codes.shape[1]
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        for _ in range(sweeps):
            for start in range(0, columns, rows.width):
                end = min(start + rows.width, columns)
                for first in range(start, end, stretch):
                    descent.sweep(start // rows.width, np.arange(first, min(first + stretch, end)))
    return codes_of(rows.block.element_format, descent.values, descent.zeros), descent.scales


class _Descent:
    def __init__(self, w: Floats, rows: Rows, hessian: Floats, damping: np.float32) -> None:
        self.rows = rows
        self.element = rows.block.element_format
        self.w = w
        self.hessian = hessian
        self.damping = damping
        self.scales = rows.scales.copy()
        self.zeros = rows.spread_zeros
        self.values = values_of(self.element, rows.codes, self.zeros)
        self.errors = w - self.values * rows.spread(rows.steps)

    def step(self, block: int) -> Floats:
        return _step(self.scales[:, block], self.rows.tensor_scale)

    def sweep(self, block: int, columns: NDArray[np.int64]) -> None:
        """``columns`` lie in one block, which they fill where scales move."""
        gradients = np.zeros((len(self.w), len(columns)), np.float32)
        for k in range(len(self.hessian)):
            gradients += self.errors[:, k, None] * self.hessian[columns, k]
        gradients += self.errors[:, columns] * self.damping
        curvature = self.hessian[np.ix_(columns, columns)].copy()
        curvature[np.diag_indices(len(columns))] += self.damping
        if moves_scales(self.rows):
            self.move_scale(block, columns, gradients, curvature)
        for i in range(len(columns)):
            self.move_code(block, columns, i, gradients, curvature)

    def move_scale(self, block: int, columns: NDArray[np.int64], gradients: Floats, curvature: Floats) -> None:
        values = self.values[:, columns]
        curved = np.zeros_like(values)
        for j in range(len(columns)):
            curved += values[:, j, None] * curvature[:, j]
        along, length = np.zeros(len(values), np.float32), np.zeros(len(values), np.float32)
        for i in range(len(columns)):
            along += values[:, i] * gradients[:, i]
            length += values[:, i] * curved[:, i]
        present, before = self.scales[:, block], self.step(block)
        wanted = before + along / length
        if self.rows.tensor_scale is not None:
            wanted = wanted * (np.float32(1) / np.float32(self.rows.tensor_scale))
        same_sign = np.where(present > 0, wanted > 0, wanted < 0) & np.isfinite(wanted)
        wanted = np.where(same_sign, wanted, present)
        scales = _store(self.rows.block, wanted, wanted)
        fits = np.isfinite(_step(scales, self.rows.tensor_scale) * np.float32(self.element.max))
        scales = np.where(fits, scales, present)
        change = _step(scales, self.rows.tensor_scale) - before
        pays = change * (change * length - along * np.float32(2)) < 0
        self.scales[:, block] = np.where(pays, scales, present)
        self.errors[:, columns] = self.w[:, columns] - values * self.step(block)[:, None]
        gradients -= curved * np.where(pays, change, np.float32(0))[:, None]

    def move_code(self, block: int, columns: NDArray[np.int64], i: int, gradients: Floats, curvature: Floats) -> None:
        column, curve, step = columns[i], curvature[i, i], self.step(block)
        before = self.values[:, column]
        zeros = None if self.zeros is None else self.zeros[:, column]
        after = nearest_values(self.element, before + gradients[:, i] * (np.float32(1) / curve) / step, zeros)
        change = (after - before) * step
        pays = change * (change * curve - gradients[:, i] * np.float32(2)) < 0
        self.values[:, column] = np.where(pays, after, before)
        self.errors[:, column] = self.w[:, column] - self.values[:, column] * step
        gradients[:, i + 1 :] -= np.where(pays, change, np.float32(0))[:, None] * curvature[i, i + 1 :]
