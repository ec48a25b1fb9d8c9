"""What the outputs of a linear layer are on average, without running it."""

import numpy as np
from numpy.typing import NDArray


def energy(w: NDArray[np.float32], metric: NDArray[np.float32], outputs: NDArray[np.float32] | None = None) -> float:
    """The mean square of the outputs w x, summed over rows and weighed by ``outputs`` [out] where given.

    ``metric`` is E[x x'] [in, in], or its diagonal [in].
    """
    per_row = np.einsum("oi,oi->o", w * metric if metric.ndim == 1 else w @ metric, w, dtype=np.float64)
    return float(per_row.sum() if outputs is None else per_row @ outputs)
