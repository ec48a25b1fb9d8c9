"""Weights in units of their block's step: rounding them to what the element format can hold."""

import numpy as np
from numpy.typing import NDArray

from halve.codecs import reference
from halve.codecs.reference import Codes
from halve.formats import Format, Int

Floats = NDArray[np.float32]


def nearest_values(element: Format, y: Floats, zeros: Floats | None) -> Floats:
    """The values next to ``y``: numbers of ``element``, less the zero points of their blocks.

    Where numbers have overflowed to NaN any value will do: nothing is kept that does not cost less.
    """
    y = np.where(np.isnan(y), np.float32(0), y)
    if isinstance(element, Int):
        low, high = np.float32(element.min), np.float32(element.max)
        shift = np.float32(0) if zeros is None else zeros
        return np.rint(np.clip(y, low - shift, high - shift))
    return reference.decode(element, reference.encode(element, y))


def values_of(element: Format, codes: Codes, zeros: Floats | None) -> Floats:
    """What ``codes`` stand for, less the zero points of their blocks."""
    values = reference.decode(element, codes)
    return values if zeros is None else values - zeros


def codes_of(element: Format, values: Floats, zeros: Floats | None) -> Codes:
    """The codes of ``values`` that :func:`nearest_values` made."""
    return reference.encode(element, values if zeros is None else values + zeros)


def running_sum(terms: Floats) -> Floats:
    """Sum over the first axis from the front, term by term: numpy's own sum would add in pairs."""
    total: Floats = np.add.accumulate(terms, axis=0)[-1]
    return total
