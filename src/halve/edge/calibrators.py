"""From what an activation was on calibration inputs to the range that codes cover.

``percentile`` and ``entropy`` as in "Integer Quantization for Deep Learning Inference" (arXiv 2004.09602); entropy is
the Kullback-Leibler divergence of what is left from what was, ``mse`` the square error, over ranges that shrink from
both ends.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from halve.edge.affine import Floats, Range

BINS = 2048
_SHRINK = np.linspace(1.0, 0.3, 71)
_FINE = 255


@dataclass(slots=True)
class Seen:
    """The values that an activation had: extremes first, then how many lie in each of `BINS` bins between them."""

    low: float = np.inf
    high: float = -np.inf
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def widen(self, values: Floats) -> None:
        """First pass."""
        if values.size:
            self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def count(self, values: Floats) -> None:
        """Second pass."""
        if self.high > self.low:
            self.counts += np.histogram(values, BINS, (self.low, self.high))[0]

    @property
    def whole(self) -> Range:
        """All of it."""
        return Range(self.low, self.high) if self.high >= self.low else Range(0, 0)

    @property
    def centers(self) -> NDArray[np.float64]:
        """The middles of the bins."""
        edges = np.linspace(self.low, self.high, BINS + 1)
        middles: NDArray[np.float64] = (edges[1:] + edges[:-1]) / 2
        return middles


def minmax(seen: Seen) -> Range:
    """All values."""
    return seen.whole


def percentile(seen: Seen, part: float = 0.9999) -> Range:
    """The central ``part`` of the values."""
    total = seen.counts.sum()
    if not total:
        return seen.whole
    share = seen.counts.cumsum() / total
    edges = np.linspace(seen.low, seen.high, BINS + 1)
    tail = (1 - part) / 2
    first, last = np.searchsorted(share, [tail, 1 - tail])
    return Range(edges[first], edges[min(last + 1, BINS)])


def mse(seen: Seen) -> Range:
    """The least square error: each end in turn, twice."""
    return _shrunk(seen, partial(_square_error, seen))


def entropy(seen: Seen) -> Range:
    """The least divergence of the values from what their codes stand for."""
    return _shrunk(seen, partial(_divergence, seen))


CALIBRATORS: dict[str, Callable[[Seen], Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}


def _shrunk(seen: Seen, loss: Callable[[Range], float]) -> Range:
    if not seen.counts.any():
        return seen.whole
    best = seen.whole
    for _ in range(2):
        for end in ("low", "high"):
            whole = getattr(seen.whole, end)
            if whole == 0:
                continue
            tried = [Range(**{"low": best.low, "high": best.high, end: whole * part}) for part in _SHRINK]
            best = min(tried, key=loss)
    return best


def _codes(seen: Seen, found: Range) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    scale, zero = found.affine("int8")
    codes = np.clip(np.rint(seen.centers / float(scale)) + zero, 0, _FINE)
    return codes, (codes - zero) * float(scale)


def _square_error(seen: Seen, found: Range) -> float:
    scale = float(found.affine("int8")[0])
    _, values = _codes(seen, found)
    errors = (values - seen.centers) ** 2
    inside = (seen.centers >= found.low) & (seen.centers <= found.high)
    errors[inside] = scale**2 / 12  # bins may be as narrow as steps: what is inside is rounded evenly
    return float((errors * seen.counts).sum())


def _divergence(seen: Seen, found: Range) -> float:
    """Each code's count is spread over its bins that are not empty; what is cut off counts in the outermost ones.

    The bin of 0, where ReLU puts half of all values, is left out: its code is exact under every range.
    """
    counted = np.where(np.arange(BINS) == np.argmin(np.abs(seen.centers)), 0, seen.counts)
    codes = _codes(seen, found)[0].astype(np.int64)
    inside = (seen.centers >= found.low) & (seen.centers <= found.high)
    filled = counted > 0
    bins = np.bincount(codes[filled & inside], minlength=_FINE + 1)
    counts = np.bincount(codes[inside], weights=counted[inside], minlength=_FINE + 1)
    spread = np.where(filled & inside, counts[codes] / np.maximum(bins[codes], 1), 0.0)
    reference = np.where(inside, counted, 0).astype(np.float64)
    edges = np.flatnonzero(inside)
    if not edges.size:
        return np.inf
    reference[edges[0]] += counted[: edges[0]].sum()
    reference[edges[-1]] += counted[edges[-1] + 1 :].sum()
    p, q = reference / max(reference.sum(), 1.0), spread / max(spread.sum(), 1.0)
    kept = p > 0
    return float(np.sum(p[kept] * np.log(p[kept] / np.maximum(q[kept], 1e-10))))
