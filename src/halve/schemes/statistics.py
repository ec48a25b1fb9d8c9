"""What a linear layer is fed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What the inputs x of ONE linear layer with ``in`` columns were over ``count`` tokens."""

    mean_square: NDArray[np.float32]  # [in]: the mean of x^2
    amax: NDArray[np.float32]  # [in]: the largest |x|
    hessian: NDArray[np.float32] | None  # [in, in]: the mean of x x^T
    count: int
