"""What an MLP makes of its gate and its up projection, in bands of rows that stay in the second-level cache."""

from collections.abc import Callable, Mapping
from math import pi, sqrt

import numpy as np
from numpy.typing import NDArray

from halve.models.decoder import Activation

Array = NDArray[np.float32]

_BAND = 64
_ALPHA = np.float32(1.702)  # of gpt-oss's sigmoid
_GELU_INNER, _GELU_CUBE = np.float32(sqrt(2 / pi)), np.float32(0.044715)


def gated(activation: Activation, gate: Array, up: Array, limit: float) -> Array:
    """``activation`` of ``gate`` and ``up`` [T, n], as `halve.models.decoder.Activation` says, as a new array."""
    product = np.empty(gate.shape, np.float32)
    apply = _INTO[activation]
    for start in range(0, len(gate), _BAND):
        rows = slice(start, start + _BAND)
        apply(gate[rows], up[rows], product[rows], np.float32(limit))
    return product


def _silu(gate: Array, up: Array, out: Array, limit: np.float32) -> None:
    del limit
    np.negative(gate, out=out)
    np.exp(out, out=out)
    out += np.float32(1)
    np.divide(gate, out, out=out)
    out *= up


def _gelu_tanh(gate: Array, up: Array, out: Array, limit: np.float32) -> None:
    """The tanh formula of arXiv:1606.08415, section 2."""
    del limit
    np.multiply(gate, gate, out=out)
    out *= gate
    out *= _GELU_CUBE
    out += gate
    out *= _GELU_INNER
    np.tanh(out, out=out)
    out += np.float32(1)
    out *= np.float32(0.5)
    out *= gate
    out *= up


def _swigluoai(gate: Array, up: Array, out: Array, limit: np.float32) -> None:
    clamped = np.minimum(gate, limit)
    np.multiply(clamped, -_ALPHA, out=out)
    np.exp(out, out=out)
    out += np.float32(1)
    np.divide(clamped, out, out=out)
    np.clip(up, -limit, limit, out=clamped)
    clamped += np.float32(1)
    out *= clamped


_INTO: Mapping[Activation, Callable[[Array, Array, Array, np.float32], None]] = {
    "silu": _silu,
    "gelu_tanh": _gelu_tanh,
    "swigluoai": _swigluoai,
}
