"""Exact rewrites of a model that make it easier to quantize: arrays in, factors out."""

from halve.schemes import Scheme

TRANSFORMS = ("smoothquant", "awq")


def usual(scheme: Scheme) -> tuple[str, ...]:
    """What pays for ``scheme`` wherever there are statistics (docs/decisions/006-calibration.md)."""
    weights, inputs = scheme.weight, scheme.activation
    if weights.element_format.bits > 4:
        return ()
    if inputs is None:
        return ("awq",)
    return ("smoothquant",) if inputs.tensor_scale else ()
