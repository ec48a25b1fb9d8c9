"""How a number between two representable neighbours chooses one of them."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Rounding = Literal["nearest_even", "toward_zero", "away_from_zero", "stochastic"]
ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)


def round_magnitude(
    x: NDArray[np.float64], rounding: Rounding, rng: np.random.Generator | None = None
) -> NDArray[np.float64]:
    """Round non-negative ``x`` to integers.

    ``stochastic`` rounds up with a probability equal to the fraction (Gupta et al., arXiv 1502.02551), so the mean over
    draws is unbiased; it needs ``rng``.
    """
    match rounding:
        case "nearest_even":
            return np.rint(x)
        case "toward_zero":
            return np.floor(x)
        case "away_from_zero":
            return np.ceil(x)
        case "stochastic":
            generator = np.random.default_rng(0) if rng is None else rng
            # `fraction > draw` and not `floor(x + draw)`: the sum would round, and a draw of 1 - 2^-53 could carry.
            fraction, floor = np.modf(x)
            return floor + (fraction > generator.random(x.shape))
