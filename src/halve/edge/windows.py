"""What each position of a convolution's output sees of its input."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray


def windows(values: NDArray[Any], kernel: Sequence[int], attributes: Mapping[str, Any]) -> NDArray[Any]:
    """[batch, channels, positions..., kernel...] of ``values``, [batch, channels, sizes...], padded with 0.

    ``attributes`` are those of ONNX's Conv: strides, dilations, pads, auto_pad. A view where nothing is padded.
    """
    spatial = len(kernel)
    strides = attributes.get("strides", [1] * spatial)
    dilations = attributes.get("dilations", [1] * spatial)
    padded = np.pad(values, [(0, 0), (0, 0), *_pads(values.shape[2:], kernel, strides, dilations, attributes)])
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    found = sliding_window_view(padded, reach, axis=tuple(range(2, 2 + spatial)))
    steps = (*(slice(None, None, s) for s in strides), *(slice(None, None, d) for d in dilations))
    return found[(slice(None), slice(None), *steps)]


def _pads(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    attributes: Mapping[str, Any],
) -> list[tuple[int, int]]:
    auto = attributes.get("auto_pad", b"NOTSET").decode()
    if auto == "NOTSET":
        flat = attributes.get("pads", [0] * 2 * len(kernel))
        return list(zip(flat[: len(kernel)], flat[len(kernel) :], strict=True))
    found = []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = 0 if auto == "VALID" else max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        less, more = total // 2, total - total // 2
        found.append((more, less) if auto == "SAME_LOWER" else (less, more))
    return found
