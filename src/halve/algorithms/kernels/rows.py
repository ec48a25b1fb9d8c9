"""A weight as the kernels of GPTQ take it: every row by itself, in blocks of columns."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halve.codecs.reference import Codes
from halve.schemes import Block
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import _step

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Scales and zero points [rows, blocks] of blocks of ``width`` columns; the last may be narrower."""

    block: Block
    width: int
    scales: Floats
    tensor_scale: float | None
    zeros: NDArray[np.uint8] | None
    codes: Codes  # [rows, columns]

    @classmethod
    def of(cls, q: QTensor) -> "Rows":
        """The rows of ``q``: tiles of several rows repeat their scale in each."""
        rows, columns = q.shape
        height, width = q.block.tile(rows, columns)
        zeros = None if q.zeros is None else q.zeros.repeat(height, 0)[:rows]
        return cls(q.block, width, q.scales.repeat(height, 0)[:rows], q.tensor_scale, zeros, q.codes)

    @property
    def steps(self) -> Floats:
        """What one unit of a code is worth, [rows, blocks]."""
        return _step(self.scales, self.tensor_scale)

    def spread(self, of_blocks: NDArray[np.generic]) -> Floats:
        """A number a block [rows, blocks] as a number a weight [rows, columns]."""
        return of_blocks.repeat(self.width, 1)[:, : self.codes.shape[1]].astype(np.float32, copy=False)

    @property
    def spread_zeros(self) -> Floats | None:
        """Zero points as a number a weight."""
        return None if self.zeros is None else self.spread(self.zeros)
