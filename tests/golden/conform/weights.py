"""The weights that halve and other tools quantize to compare codes and scales: made of integers, so the same anywhere.

Rounding to nearest is easy to agree on for normal numbers. What tells tools apart is here too: ties, amounts a bit
above a power of two, zero blocks, negative zeros, numbers that are subnormal or so small that scales underflow.
"""

from collections.abc import Callable

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

ROWS, COLUMNS = 32, 512
DTYPES = {"fp32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16), "fp16": np.dtype(np.float16)}
Drawing = NDArray[np.float64]


def _uniform(seed: int, *shape: int) -> Drawing:
    """Multiples of 2^-32 in [0, 1); the raw bits of a generator never change between versions of numpy."""
    raw = np.random.PCG64(seed).random_raw(int(np.prod(shape)))
    return (raw >> np.uint64(32)).astype(np.float64).reshape(shape) * 2.0**-32


def bell(seed: int, rows: int = ROWS, columns: int = COLUMNS) -> Drawing:
    """The sum of twelve uniform numbers, less its mean: nearly N(0, 1). All sums are exact."""
    return _uniform(seed, 12, rows, columns).sum(0) - 6


def _heavy() -> Drawing:
    return bell(2) * 0.02 / (_uniform(3, ROWS, COLUMNS) + 2.0**-10)


def _outliers() -> Drawing:
    return bell(4) * np.where(_uniform(5, ROWS, COLUMNS) < 0.004, 20, 1)


def _wide() -> Drawing:
    exponents = np.floor(_uniform(6, ROWS, COLUMNS // 16) * 24) - 18
    return bell(7) * 2.0 ** exponents.repeat(16, 1)


def _zeros() -> Drawing:
    """Blocks of zeros of every size, and zeros of both signs among the rest; no row is empty."""
    x = bell(8) * 0.02
    x[_uniform(9, ROWS, COLUMNS) < 0.05] = 0.0
    x[_uniform(10, ROWS, COLUMNS) < 0.05] = -0.0
    for row, width in enumerate((16, 32, 128, 256, 16, 32)):
        x[row, 128 : 128 + width] = -0.0 if row % 2 else 0.0
    return x


def _zero_rows() -> Drawing:
    x = bell(11) * 0.02
    x[[0, 7]] = 0.0
    x[9] = -0.0
    return x


def _ties(largest: float, step: float, width: int) -> Callable[[], Drawing]:
    """Multiples of ``step``, the largest of each ``width`` columns being ``largest``."""

    def drawn() -> Drawing:
        x = np.floor((_uniform(12, ROWS, COLUMNS) * 2 - 1) * largest / step) * step
        x = np.clip(x, -largest, largest)
        x[:, ::width] = largest
        return x

    return drawn


def _nvfp4_ties() -> Drawing:
    x = _ties(6, 0.25, 16)()
    x[0, 0] = 2688  # so that the tensor scale is 1
    return x


def _fp8_ties() -> Drawing:
    """E4M3 numbers and the middles between them."""
    exponents = np.floor(_uniform(13, ROWS, COLUMNS) * 15) - 6
    x = np.floor(16 + _uniform(14, ROWS, COLUMNS) * 16) / 16 * 2.0**exponents
    x = np.minimum(x, 448) * np.where(_uniform(15, ROWS, COLUMNS) < 0.5, -1, 1)
    x[:, 0] = 448
    return x


def _powers(largest: float) -> Callable[[], Drawing]:
    """Blocks of 32 whose maxima are ``largest`` times a power of two, and a few units in the last place more."""

    def drawn() -> Drawing:
        blocks = np.arange(ROWS * COLUMNS // 32).reshape(ROWS, -1)
        maxima = largest * 2.0 ** (blocks // 16 % 32 - 20) * (1 + (blocks % 16 - 3) * 2.0**-23)
        x = (_uniform(16, ROWS, COLUMNS) * 2 - 1) * maxima.repeat(32, 1)
        x[:, ::32] = maxima
        return x

    return drawn


def _small() -> Drawing:
    """Subnormal in FP16, and in its scales."""
    return bell(17) * 2.0**-20


def _tiny() -> Drawing:
    return bell(18) * 2.0**-110


def _subnormal() -> Drawing:
    """Blocks and rows of numbers that are subnormal in FP32, beside normal ones."""
    x = bell(19) * 0.02
    x[:, 128:160] *= 2.0**-124
    x[:, 256:384] *= 2.0**-120
    x[:, 384:] *= 2.0 ** -np.arange(112, 112 + ROWS)[:, None]
    x[8:16] *= 2.0 ** -np.arange(116, 140, 3)[:, None]
    return x


def _all_zero() -> Drawing:
    return np.zeros((ROWS, COLUMNS))


_EVERY = ("fp32", "bf16", "fp16")
_DRAWINGS: dict[str, tuple[Callable[[], Drawing], tuple[str, ...]]] = {
    "normal": (lambda: bell(1) * 0.02, _EVERY),
    "heavy": (_heavy, _EVERY),
    "outliers": (_outliers, _EVERY),
    "wide": (_wide, _EVERY),
    "zeros": (_zeros, _EVERY),
    "zero_rows": (_zero_rows, _EVERY),
    "all_zero": (_all_zero, _EVERY),
    "nvfp4_ties": (_nvfp4_ties, _EVERY),
    "mxfp4_ties": (_ties(6, 0.25, 32), _EVERY),
    "int4_ties": (_ties(7.5, 0.5, 128), _EVERY),
    "int4_ties_of_7": (_ties(7, 0.5, 128), _EVERY),
    "int8_ties": (_ties(127.5, 0.5, 128), _EVERY),
    "fp8_ties": (_fp8_ties, _EVERY),
    "powers_of_6": (_powers(6), ("fp32", "bf16")),
    "powers_of_448": (_powers(448), ("fp32", "bf16")),
    "small": (_small, _EVERY),
    "tiny": (_tiny, ("fp32", "bf16")),
    "subnormal": (_subnormal, ("fp32", "bf16")),
}


def drawn() -> dict[str, NDArray[np.floating]]:
    """Every weight, under its name and dtype: ``normal.bf16``."""
    return {
        f"{name}.{dtype}": draw().astype(np.float32).astype(DTYPES[dtype])
        for name, (draw, dtypes) in _DRAWINGS.items()
        for dtype in dtypes
    }


def large() -> dict[str, NDArray[np.floating]]:
    """Six million weights: what differs in one code in a million shows."""
    x = bell(22, 1536, 4096) * np.where(_uniform(23, 1536, 4096) < 0.001, 20, 1)
    return {f"large.{dtype}": x.astype(np.float32).astype(DTYPES[dtype]) for dtype in ("fp32", "bf16")}
