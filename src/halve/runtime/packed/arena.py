"""One stretch of memory for all weights of a model."""

import mmap

import numpy as np
from numpy.typing import NDArray

from halve.errors import UnsupportedError

ALIGNMENT = 64  # bytes: a cache line, and a line of packed weights


def aligned(nbytes: int) -> int:
    """``nbytes``, rounded up to the alignment."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


class Arena:
    """Zeroed memory, in huge pages where the system has some, handed out piece by piece and freed with the last piece.

    With ordinary pages a pass over a large weight misses the TLB every 4 KiB.
    """

    def __init__(self, nbytes: int) -> None:
        # MAP_NORESERVE is not set: a model that does not fit fails here, not halfway through.
        try:
            memory = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError, ValueError):
            raise UnsupportedError(
                f"there is no memory for {nbytes / 1e9:.1f} GB of weights",
                hint="quantize to fewer bits, or free memory",
            ) from None
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        self.memory: NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
        self._used = 0

    def take(self, nbytes: int) -> NDArray[np.uint8]:
        """The next ``nbytes``, on a multiple of `ALIGNMENT`."""
        start = self._used
        self._used += aligned(nbytes)
        assert self._used <= len(self.memory), "the arena was made too small"  # noqa: S101 - sizes are computed once
        return self.memory[start : start + nbytes]
