"""What the native products compute, in plain numpy and float64."""

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from halve.runtime.packed.kernels import Mode
from halve.runtime.packed.packing import UNIT, packing
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import dequantize_reference
from halve.schemes.table import Block

_WITH_INT8 = ("fp4", "int4", "int8")


def rounded(block: Block, x: NDArray[np.float32], mode: Mode) -> NDArray[np.float64]:
    """The activations [..., columns] that a weight stored as ``block`` is multiplied with in ``mode``."""
    if mode == "exact":
        return x.astype(np.float64)
    if mode == "bf16" or packing(block).element not in _WITH_INT8:
        return x.astype(ml_dtypes.bfloat16).astype(np.float64)
    units = np.zeros((*x.shape[:-1], -(-x.shape[-1] // UNIT), UNIT), np.float32)
    units.reshape(*x.shape[:-1], -1)[..., : x.shape[-1]] = x
    amax = np.abs(units).max(-1, keepdims=True)
    inverse = np.divide(np.float32(127), amax, out=np.zeros_like(amax), where=amax > 0)
    values = np.rint(units * inverse).astype(np.float64) * (amax / np.float32(127))
    rows: NDArray[np.float64] = values.reshape(*x.shape[:-1], -1)
    return rows[..., : x.shape[-1]]


def multiply(q: QTensor, x: NDArray[np.float32], mode: Mode) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``x W^T`` [n, rows] for ``x`` [n, columns], and ``sum |w x|``, to which errors are compared."""
    weight = dequantize_reference(q).astype(np.float64)
    activations = rounded(q.block, x, mode)
    return activations @ weight.T, np.abs(activations) @ np.abs(weight).T
