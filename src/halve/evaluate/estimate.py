"""A mean and how far it may be off."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, isfinite, sqrt
from statistics import fmean, stdev
from typing import Any


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over passages with its standard error (None: one passage tells of no spread).

    Passages, not tokens, are the sample: neighbouring tokens are alike, and an error over tokens would be too small.
    """

    mean: float
    error: float | None

    @classmethod
    def of(cls, passages: Sequence[float]) -> "Estimate":
        """From one number a passage."""
        error = stdev(passages) / sqrt(len(passages)) if len(passages) > 1 else None
        return cls(fmean(passages), error)

    def exp(self) -> "Estimate":
        """The exponential of this, the error to first order."""
        try:
            power = exp(self.mean)
        except OverflowError:
            power = inf
        return Estimate(power, None if self.error is None else power * self.error)

    def text(self, digits: int) -> str:
        """With ``digits`` after the point."""
        error = "" if self.error is None else f" ± {self.error:.{digits}f}"
        return f"{self.mean:.{digits}f}{error}"

    def to_json(self, name: str) -> dict[str, Any]:
        """As ``name`` and ``name_error``; null where there is none, or where it is infinite."""
        return {name: finite(self.mean), f"{name}_error": finite(self.error)}


def finite(x: float | None) -> float | None:
    """``x``, or None where it is not finite: JSON has no infinity."""
    return x if x is not None and isfinite(x) else None
