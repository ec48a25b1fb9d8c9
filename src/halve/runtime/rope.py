"""Rotary position embedding: the rotation. The angles that a config.json asks for are in `halve.models.rotary`."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def table(inverse: Array, first: int, count: int) -> tuple[Array, Array]:
    """Cosines and sines [count, head_dim / 2] of positions ``first`` and on."""
    angles = np.arange(first, first + count, dtype=np.float32)[:, None] * inverse
    return np.cos(angles), np.sin(angles)


def rotate(heads: Array, cosines: Array, sines: Array) -> Array:
    """``heads`` [T, n, head_dim] rotated by their positions, as a new array [n, T, head_dim].

    Component j pairs with j + head_dim / 2, as in transformers.
    """
    half = heads.shape[-1] // 2
    by_head = heads.swapaxes(0, 1)
    left, right = by_head[..., :half], by_head[..., half:]
    rotated = np.empty(by_head.shape, np.float32)
    np.multiply(left, cosines, out=rotated[..., :half])
    rotated[..., :half] -= right * sines
    np.multiply(right, cosines, out=rotated[..., half:])
    rotated[..., half:] += left * sines
    return rotated
