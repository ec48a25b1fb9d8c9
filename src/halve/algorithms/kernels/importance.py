"""How much an error in each column costs: what the searches for scales weigh it with."""

import numpy as np
from numpy.typing import NDArray

from halve.errors import FormatError
from halve.schemes import Block


def uniform(columns: int) -> NDArray[np.float32]:
    """All columns alike."""
    return np.ones(columns, np.float32)


def weighted(block: Block, columns: int, weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """``weight`` [columns], scaled by a power of two so that the largest of every block lies in [1, 2).

    Only ratios within a block matter to the choice of its scale. A block whose weights are all zero, which the
    calibration text never reached, counts all its columns alike.

    Raises FormatError for a weight that is negative or not finite.
    """
    if weight.shape != (columns,):
        raise FormatError(f"the statistics are of {weight.shape} inputs, the weight has {columns} columns")
    if not np.isfinite(weight).all() or (weight < 0).any():
        column = int(np.argmin(np.isfinite(weight) & (weight >= 0)))
        raise FormatError(
            f"the statistics of column {column} are {float(weight[column])}", hint="make them again from another text"
        )
    _, width = block.tile(1, columns)
    across = -(-columns // width)
    of_blocks = np.pad(weight.astype(np.float32), (0, across * width - columns)).reshape(across, width)
    largest = of_blocks.max(1, keepdims=True)
    scaled = np.ldexp(of_blocks, 1 - np.frexp(largest)[1])
    return np.where(largest == 0, np.float32(1), scaled).astype(np.float32).reshape(-1)[:columns]
