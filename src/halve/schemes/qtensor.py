"""The one canonical in-memory form of a quantized weight."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halve.codecs.reference import Codes
from halve.schemes.table import Block


@dataclass(frozen=True, slots=True)
class QTensor:
    """A quantized 2-D weight (or a band of its rows), ``[out, in]``.

    Nibble order, swizzles, reciprocals and tensor names belong to layouts; here codes are unpacked and scales are
    values.
    """

    block: Block
    codes: Codes  # [out, in], the element format's bit patterns
    scales: NDArray[np.float32]  # block.scale_shape(out, in), exactly representable in block.scale
    tensor_scale: float | None = None
    zeros: NDArray[np.uint8] | None = None  # like scales: integer zero points
    mins: NDArray[np.float32] | None = None  # like scales: float minima (GGUF Q4_1, K-quants)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.codes.shape
        return rows, columns
