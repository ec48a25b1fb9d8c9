"""A weight under the best of candidate scales: what mse, four_over_six and hessian_diag have in common."""

import numpy as np

from halve.algorithms.kernels.candidates import Candidates
from halve.algorithms.kernels.codes import assign
from halve.algorithms.kernels.importance import uniform, weighted
from halve.algorithms.kernels.scales import search
from halve.algorithms.kernels.values import Floats
from halve.errors import FormatError, UnsupportedError
from halve.schemes import Block
from halve.schemes import quantize as nearest
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import ScaleRule, Weights, absmax, check_rule


def require_scales(block: Block, name: str) -> None:
    """Raise UnsupportedError where ``block`` has no scales that the algorithm ``name`` could choose."""
    if block.scale is None:
        raise UnsupportedError(f"{block.element} has no scales for {name} to choose", hint="use --algorithm rtn")


def quantize(
    block: Block,
    w: Weights,
    weight: Floats | None,
    candidates: Candidates,
    *,
    rule: ScaleRule | None,
    tensor_scale: float | None,
) -> QTensor:
    """``w`` [out, in] with the scales that cost least, and the nearest codes under them.

    ``weight`` [in] is what an error in each column costs; None: one as much as another.

    Raises FormatError for NaN or Inf in ``w``, for columns that the block size does not divide and for a ``weight`` of
    another width, negative or not finite; UnsupportedError for a scale rule that ``block`` does not admit.
    """
    if w.ndim != 2:
        raise FormatError(f"a weight is a matrix [out, in]; this array has shape {list(w.shape)}")
    rule = check_rule(block, rule)
    block.tile(*w.shape)
    if block.tensor_scale and tensor_scale is None:
        tensor_scale = nearest.tensor_scale(block, absmax(w))
    importance = uniform(w.shape[1]) if weight is None else weighted(block, w.shape[1], weight)
    scales, zeros = search(block, w, importance, candidates, rule=rule, tensor_scale=tensor_scale)
    codes = assign(block, w, scales, zeros, tensor_scale=tensor_scale)
    return QTensor(block, codes, np.ascontiguousarray(scales), tensor_scale, zeros)
