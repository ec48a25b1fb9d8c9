"""Rotary position embedding: the rotation. The angles that a config.json asks for are in `halve.models.rotary`."""

import numpy as np
from numpy.typing import NDArray

from halve.models.rotary import Rotary

Array = NDArray[np.float32]


def table(rotary: Rotary, first: int, count: int) -> tuple[Array, Array]:
    """Cosines and sines [count, n] of positions ``first`` and on, which end a text."""
    angles = np.arange(first, first + count, dtype=np.float32)[:, None] * rotary.of(first + count)
    cosines, sines = np.cos(angles), np.sin(angles)
    if rotary.scale != 1:
        cosines *= np.float32(rotary.scale)
        sines *= np.float32(rotary.scale)
    return cosines, sines


def rotate(heads: Array, cosines: Array, sines: Array) -> Array:
    """``heads`` [T, heads, head_dim] rotated by their positions, as a new array [heads, T, head_dim].

    Of the first 2n components j pairs with j + n, as in transformers; those behind stay as they are.
    """
    half = cosines.shape[-1]
    by_head = heads.swapaxes(0, 1)
    left, right = by_head[..., :half], by_head[..., half : 2 * half]
    rotated = np.empty(by_head.shape, np.float32)
    np.multiply(left, cosines, out=rotated[..., :half])
    rotated[..., :half] -= right * sines
    np.multiply(right, cosines, out=rotated[..., half : 2 * half])
    rotated[..., half : 2 * half] += left * sines
    rotated[..., 2 * half :] = by_head[..., 2 * half :]
    return rotated
