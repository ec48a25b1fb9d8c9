"""``rtn``: every weight to the nearest code under its block's scale. The baseline that others must beat."""

from halve.schemes import Block
from halve.schemes import quantize as nearest
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import ScaleRule, Weights


def quantize(block: Block, band: Weights, *, rule: ScaleRule | None, tensor_scale: float | None) -> QTensor:
    """Quantize a band of rows [out, in] under the tensor scale of its fused group.

    Raises FormatError as :func:`halve.schemes.quantize.quantize` does.
    """
    return nearest.quantize(block, band, rule=rule, tensor_scale=tensor_scale)
