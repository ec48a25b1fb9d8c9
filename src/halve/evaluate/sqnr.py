"""Signal to quantization noise: how much of a tensor survived."""

from dataclasses import dataclass
from math import inf, log10

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class Sqnr:
    """Running sums of a tensor's energy and of its error's, band by band."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: NDArray[np.floating], quantized: NDArray[np.float32]) -> None:
        """Add a band: what it was, and what it has become."""
        x = reference.astype(np.float32, copy=False).reshape(-1)
        # float32 differences of nearby numbers are exact (Sterbenz); float64 sums keep tensors of 1e9 elements exact.
        error = x - quantized.reshape(-1)
        self.signal += float(np.einsum("i,i->", x, x, dtype=np.float64))
        self.noise += float(np.einsum("i,i->", error, error, dtype=np.float64))

    @property
    def db(self) -> float:
        """10 log10(signal / noise); infinite without noise, minus infinite where only noise is left."""
        if self.noise == 0:
            return inf
        return 10 * log10(self.signal / self.noise) if self.signal else -inf
