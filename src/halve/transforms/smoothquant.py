"""SmoothQuant (Xiao et al., 2022, arXiv:2211.10438): move the outliers of activations into the weights."""

import numpy as np

from halve.transforms.folding import Factors

ALPHA = 0.5
_LIMIT = np.float32(1e4)  # a channel that is never used is no reason to overflow


def factors(amax_inputs: Factors, amax_weights: Factors, alpha: float = ALPHA) -> Factors:
    """What to divide each input channel by: ``amax_inputs^alpha / amax_weights^(1 - alpha)``, equation 4 of the paper.

    Both are [in]: the largest input, and the largest weight over all consumers of the channel. The factors are scaled
    to a geometric mean of 1, which changes nothing for blocks under a tensor scale; a channel without inputs or
    weights keeps 1.
    """
    used = (amax_inputs > 0) & (amax_weights > 0)
    if not used.any():
        return np.ones_like(amax_inputs)
    log = np.zeros(len(amax_inputs), np.float64)
    log[used] = alpha * np.log(amax_inputs[used].astype(np.float64)) - (1 - alpha) * np.log(
        amax_weights[used].astype(np.float64)
    )
    log[used] -= log[used].mean()
    return np.clip(np.exp(log), 1 / _LIMIT, _LIMIT).astype(np.float32)
