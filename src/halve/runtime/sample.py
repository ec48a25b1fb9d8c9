"""The next token from logits: the likeliest, or a draw."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halve.errors import UnsupportedError

_STRETCH = 256  # weights whose sum is looked at as one


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen. Raises UnsupportedError for parameters out of range.

    ``temperature`` divides the logits, 0 takes the likeliest token. ``top_k`` keeps that many tokens (0: all), then
    ``top_p`` the likeliest ones that together have at least this probability. Equal logits: the lower token goes first.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, good, wanted in (
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "0 (all tokens) or more"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not good:
                raise UnsupportedError(f"{name} = {getattr(self, name)} is out of range", hint=f"{name} is {wanted}")


class Sampler:
    """Draws tokens one after another; the same seed and logits give the same tokens."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._rng = np.random.default_rng(sampling.seed)

    def __call__(self, logits: NDArray[np.float32]) -> int:
        """A token for ``logits`` [vocabulary]."""
        if self._sampling.temperature == 0:
            return int(logits.argmax())
        if self._sampling.top_k or self._sampling.top_p < 1:
            tokens, weights = candidates(logits, self._sampling)
            return int(tokens[self._drawn(weights)])
        return self._drawn(_weights(logits, self._sampling.temperature))

    def _drawn(self, weights: NDArray[np.floating]) -> int:
        """A position, as often as its share of ``weights`` says: a stretch of them first, then one of those."""
        starts = np.arange(0, len(weights), _STRETCH)
        sums = np.add.reduceat(weights, starts).cumsum(dtype=np.float64)
        drawn = self._rng.random() * sums[-1]
        stretch = min(int(np.searchsorted(sums, drawn, side="right")), len(sums) - 1)
        start, before = int(starts[stretch]), float(sums[stretch - 1]) if stretch else 0.0
        cumulated = weights[start : start + _STRETCH].cumsum(dtype=np.float64) + before
        return start + min(int(np.searchsorted(cumulated, drawn, side="right")), len(cumulated) - 1)


def candidates(logits: NDArray[np.float32], sampling: Sampling) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The tokens that may be drawn at a temperature above 0, the likeliest first, and their probabilities."""
    scaled = _scaled(logits, sampling)
    weights = np.exp(scaled)
    likely = np.flatnonzero(_may_be_kept(weights, sampling))  # sorting them all would take longer than all the rest
    order = likely[np.argsort(-scaled[likely], kind="stable")][: sampling.top_k or None]
    probabilities = weights[order] / (weights[order] if sampling.top_k else weights).sum()
    before = probabilities.cumsum() - probabilities
    kept = max(int(np.count_nonzero(before < sampling.top_p)), 1)
    return order[:kept], probabilities[:kept] / probabilities[:kept].sum()


def _weights(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Exponentials of logits over the temperature; that of the largest is 1."""
    weights: NDArray[np.float32] = logits - logits.max()
    with np.errstate(over="ignore", under="ignore"):  # a tiny temperature leaves the largest alone
        weights *= min(1 / temperature, float(np.finfo(np.float32).max))
        np.exp(weights, out=weights)
    return weights


def _scaled(logits: NDArray[np.float32], sampling: Sampling) -> NDArray[np.float64]:
    """Logits over the temperature; the largest is 0, so that a tiny temperature does not overflow."""
    scaled: NDArray[np.float64] = (logits.astype(np.float64) - float(logits.max())) / sampling.temperature
    return scaled


def _may_be_kept(weights: NDArray[np.float64], sampling: Sampling) -> NDArray[np.bool_]:
    """Of all tokens those that ``sampling`` can keep, and perhaps some more."""
    if 0 < sampling.top_k < len(weights):
        least = float(np.partition(weights, -sampling.top_k)[-sampling.top_k])
    else:  # less likely tokens have, all together, less than half of what top_p leaves out
        least = 0.5 * (1 - sampling.top_p) / len(weights) * float(weights.sum())
    likely: NDArray[np.bool_] = weights >= least
    return likely
