"""The nearest codes under given scales."""

import numpy as np
from numpy.typing import NDArray

from halve.algorithms.kernels import native
from halve.codecs import reference
from halve.codecs.reference import Codes
from halve.schemes import Block
from halve.schemes.quantize import Weights, _spread, _step


def assign(
    block: Block,
    w: Weights,
    scales: NDArray[np.float32],
    zeros: NDArray[np.uint8] | None,
    *,
    tensor_scale: float | None,
) -> Codes:
    """Codes [out, in] of ``w`` under ``scales``, as `halve.schemes.quantize.quantize` chooses them."""
    if native.available(block):
        return native.assign(block, w, scales, zeros, tensor_scale)
    return assign_reference(block, w, scales, zeros, tensor_scale=tensor_scale)


def assign_reference(
    block: Block,
    w: Weights,
    scales: NDArray[np.float32],
    zeros: NDArray[np.uint8] | None,
    *,
    tensor_scale: float | None,
) -> Codes:
    """What :func:`assign` computes, in plain numpy."""
    with np.errstate(over="ignore", under="ignore"):
        quotients = w.astype(np.float32) / _spread(block, _step(scales, tensor_scale), w.shape)
    if zeros is not None:
        quotients = np.rint(quotients) + _spread(block, zeros, w.shape)
    return reference.encode(block.element_format, quotients)
