"""INT8 weights whose rounding errors make up for each other, as the inputs of their product go together (GPTQ)."""

import numpy as np
from onnx import NodeProto

from halve import algorithms
from halve.edge.affine import Floats
from halve.edge.model import FloatModel
from halve.edge.moments import Moments
from halve.edge.qdq import Codes, channel_axis
from halve.schemes import Block
from halve.schemes.statistics import Statistics

_BLOCK = Block(element="int8", scale="fp32", block_size="row")


def learned(model: FloatModel, node: NodeProto, moments: Moments) -> Codes | None:
    """The weight of ``node`` by `halve.algorithms.gptq`, a scale a row; None for a product whose rows share scales."""
    name = model.weight_of(node)
    assert name is not None  # noqa: S101 - callers ask for products with weights only
    weight = model.constants[name].astype(np.float32)
    if node.op_type == "ConvTranspose" or weight.ndim < 2 or not moments.count:
        return None
    turned = channel_axis(node, weight.ndim) == weight.ndim - 1
    shape = moments.operand.shape
    matrices = (weight.T if turned else weight).reshape(shape.groups, shape.rows, shape.columns)
    algorithm = algorithms.get("gptq")
    codes = np.empty(matrices.shape, np.int8)
    scales = np.empty(matrices.shape[:2], np.float32)
    for group, hessian in enumerate(moments.hessians):
        diagonal = hessian.diagonal()
        statistics = Statistics(np.ascontiguousarray(diagonal), np.sqrt(diagonal), hessian, moments.count)
        found = algorithm.prepared(_BLOCK, statistics).quantize(np.ascontiguousarray(matrices[group]), rule="max")
        codes[group] = found.codes.view(np.int8)
        scales[group] = _row_scales(found.scales)
    joined = codes.reshape(-1, shape.columns)
    return Codes(
        joined.T.reshape(weight.shape) if turned else joined.reshape(weight.shape),
        scales.reshape(-1),
        channel_axis(node, weight.ndim),
    )


def _row_scales(scales: Floats) -> Floats:
    return np.asarray(scales, np.float32).reshape(-1)
