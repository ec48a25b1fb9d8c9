"""The kernels through the native module."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from halve.algorithms.kernels.candidates import Candidates
from halve.algorithms.kernels.rows import Rows
from halve.codecs import dispatch
from halve.codecs.reference import Codes
from halve.formats import Float
from halve.schemes import Block, native
from halve.schemes.quantize import ScaleRule, Weights


def loaded() -> bool:
    """Whether the native module is there."""
    return dispatch.kernels() is not None


def available(block: Block) -> bool:
    """Whether the native module is there and has kernels for ``block``."""
    return native.quantizes(block) and not block.minimum and _fits(block)


@cache
def _fits(block: Block) -> bool:
    element = block.element_format
    return not isinstance(element, Float) or (element.signed and element.has_zero)


def search(
    block: Block,
    w: Weights,
    importance: NDArray[np.float32],
    candidates: Candidates,
    *,
    rule: ScaleRule,
    tensor_scale: float | None,
) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None] | None:
    """What ``search_reference`` finds; None where ``w`` holds NaN or Inf."""
    kernels = dispatch.kernels()
    assert kernels is not None  # noqa: S101 - the caller asked `available`
    assert block.scale_format is not None  # noqa: S101
    scales = np.empty(block.scale_shape(*w.shape), np.float32)
    zeros = np.empty(scales.shape, np.uint8) if block.zero_point else None
    finite = not w.size or kernels.search_scales(
        dispatch.weight_bits(w),
        element=dispatch.codec(block.element_format),
        scale=dispatch.codec(block.scale_format),
        tile=block.tile(*w.shape),
        rule=rule,
        tensor_scale=tensor_scale,
        importance=dispatch.plain(importance),
        neighbours=candidates.neighbours,
        divisors=np.array(candidates.divisors, np.float32),
        zero_shifts=candidates.zero_shifts,
        refinements=candidates.refinements,
        scales=scales,
        zeros=zeros,
    )
    return (scales, zeros) if finite else None


def assign(
    block: Block,
    w: Weights,
    scales: NDArray[np.float32],
    zeros: NDArray[np.uint8] | None,
    tensor_scale: float | None,
) -> Codes:
    """What ``assign_reference`` computes."""
    kernels = dispatch.kernels()
    assert kernels is not None  # noqa: S101 - the caller asked `available`
    codes = np.empty(w.shape, np.uint8)
    if w.size:
        kernels.assign_codes(
            dispatch.weight_bits(w),
            element=dispatch.codec(block.element_format),
            tile=block.tile(*w.shape),
            scales=dispatch.plain(scales),
            tensor_scale=tensor_scale,
            zeros=None if zeros is None else dispatch.plain(zeros),
            codes=codes,
        )
    return codes


def factor(
    hessian: NDArray[np.float32], order: NDArray[np.uint32], damping: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """What ``factor_reference`` computes."""
    kernels = dispatch.kernels()
    assert kernels is not None  # noqa: S101 - the caller asked `loaded`
    columns = len(order)
    feedback, importance = np.empty((columns, columns), np.float32), np.empty(columns, np.float32)
    definite = kernels.factor(
        dispatch.plain(hessian),
        order=order,
        damping=damping,
        work=np.empty(columns * kernels.factor_stride(columns), np.float64),
        feedback=feedback,
        importance=importance,
    )
    return (feedback, importance) if definite else None


def feed_back(
    w: Weights, rows: Rows, *, order: NDArray[np.uint32], feedback: NDArray[np.float32], importance: NDArray[np.float32]
) -> Codes:
    """What ``feed_back_reference`` computes."""
    kernels = dispatch.kernels()
    assert kernels is not None  # noqa: S101 - the caller asked `available`
    codes = rows.codes.copy()
    if w.size:
        kernels.feed_back(
            dispatch.weight_bits(w),
            element=dispatch.codec(rows.block.element_format),
            width=rows.width,
            steps=dispatch.plain(rows.steps),
            zeros=None if rows.zeros is None else dispatch.plain(rows.zeros),
            order=order,
            feedback=feedback,
            importance=importance,
            codes=codes,
        )
    return codes


def descend(
    w: Weights, rows: Rows, hessian: NDArray[np.float32], *, damping: float, sweeps: int, moves_scales: bool
) -> tuple[Codes, NDArray[np.float32]]:
    """What ``descend_reference`` computes."""
    kernels = dispatch.kernels()
    assert kernels is not None  # noqa: S101 - the caller asked `available`
    assert rows.block.scale_format is not None  # noqa: S101
    codes, scales = rows.codes.copy(), np.array(rows.scales, order="C")
    if w.size:
        kernels.descend(
            dispatch.weight_bits(w),
            element=dispatch.codec(rows.block.element_format),
            width=rows.width,
            scale=dispatch.codec(rows.block.scale_format) if moves_scales else None,
            tensor_scale=rows.tensor_scale,
            scales=scales,
            zeros=None if rows.zeros is None else dispatch.plain(rows.zeros),
            hessian=dispatch.plain(hessian),
            damping=damping,
            sweeps=sweeps,
            codes=codes,
        )
    return codes, scales
