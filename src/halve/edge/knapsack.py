"""Which activations may stay in 8 bits: the dearest whose noise fits a budget, by dynamic programming."""

from collections.abc import Mapping

import numpy as np

_LEVELS = 4096  # of noise; rounded up, so that the budget holds


def dearest(noise: Mapping[str, float], worth: Mapping[str, float], budget: float) -> frozenset[str]:
    """Of the names in ``noise`` those that together are worth most, with no more than ``budget`` of noise in sum."""
    if budget <= 0:
        return frozenset()
    names = list(noise)
    weights = [int(min(np.ceil(noise[name] / budget * _LEVELS), _LEVELS + 1)) for name in names]
    best = np.zeros(_LEVELS + 1)
    taken = np.zeros((len(names), _LEVELS + 1), bool)
    for index, (name, weight) in enumerate(zip(names, weights, strict=True)):
        if weight > _LEVELS:
            continue
        tried = np.concatenate([np.full(weight, -np.inf), best[: _LEVELS + 1 - weight] + worth[name]])
        taken[index] = tried > best
        best = np.maximum(best, tried)
    found, left = set(), _LEVELS
    for index in reversed(range(len(names))):
        if taken[index, left]:
            found.add(names[index])
            left -= weights[index]
    return frozenset(found)
