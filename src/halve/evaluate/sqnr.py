"""Signal to quantization noise: how much of a tensor survived."""

from dataclasses import dataclass, field
from math import fsum, inf, log10

import numpy as np
from numpy.typing import NDArray

from halve.codecs import dispatch

_PIECE = 1 << 16  # numbers at a time: they stay in the cache
_LANES = 16  # running sums: number i adds to sum i % 16, so that native code needs no other order than its vectors have


@dataclass(slots=True)
class Sqnr:
    """Running sums of a tensor's energy and of its error's, band by band, in float64.

    The same bits with and without native kernels, for any instruction set, and however a tensor is cut into bands of
    whole multiples of 16 numbers (only the last may be shorter).
    """

    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, _LANES)))

    def add(self, reference: NDArray[np.floating], quantized: NDArray[np.float32]) -> None:
        """Add a band: what it was, and what it has become."""
        kernels = dispatch.kernels()
        if kernels is None:
            add_reference(self.sums, reference, quantized)
        else:
            kernels.energies(dispatch.weight_bits(reference), dispatch.plain(quantized), self.sums)

    @property
    def signal(self) -> float:
        """Sum of the squares of what it was."""
        return fsum(self.sums[0])

    @property
    def noise(self) -> float:
        """Sum of the squares of the error."""
        return fsum(self.sums[1])

    @property
    def db(self) -> float:
        """10 log10(signal / noise); infinite without noise, minus infinite where only noise is left."""
        if self.noise == 0:
            return inf
        return 10 * log10(self.signal / self.noise) if self.signal else -inf


def add_reference(sums: NDArray[np.float64], reference: NDArray[np.floating], quantized: NDArray[np.float32]) -> None:
    """What the native kernel does."""
    before, after = reference.reshape(-1), quantized.reshape(-1)
    for start in range(0, before.size, _PIECE):
        x = before[start : start + _PIECE].astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            error = x - after[start : start + _PIECE]  # float32 differences of nearby numbers are exact (Sterbenz)
        for lanes, numbers in zip(sums, (x, error), strict=True):
            squares = np.zeros(-(-numbers.size // _LANES) * _LANES)
            np.square(numbers, out=squares[: numbers.size], dtype=np.float64)
            # Adding rows is adding from left to right in every lane; numpy adds pairwise along rows only.
            squares[:_LANES] += lanes
            np.add.reduce(squares.reshape(-1, _LANES), axis=0, out=lanes)
