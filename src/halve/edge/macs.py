"""Multiplications of a model's products, counted on a sample: dimensions that are free have a size only there."""

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from halve.edge.model import PRODUCTS, FloatModel
from halve.edge.running import Sample, Session


@dataclass(frozen=True, slots=True)
class Product:
    """A Conv, ConvTranspose, Gemm or MatMul: the activations that it multiplies, and how often it multiplies."""

    name: str
    operands: tuple[str, ...]
    macs: int


def products(model: FloatModel, sample: Sample) -> tuple[Product, ...]:
    """The products of ``model`` with their multiplications on ``sample``, in the order in which they are computed."""
    nodes = [node for node in model.nodes if node.op_type in PRODUCTS]
    sized = [node.input[0] if node.op_type == "ConvTranspose" else node.output[0] for node in nodes]
    depths = {node.output[0]: node.input[0] for node in nodes if model.weight_of(node) is None}
    taps = list(dict.fromkeys([*sized, *(name for name in depths.values() if name not in model.constants)]))
    shapes = dict(model.constants.items()) | dict(
        zip(taps, Session(model.proto, taps).run(sample, taps), strict=True) if taps else ()
    )
    found = []
    for node, name in zip(nodes, sized, strict=True):
        operands = tuple(one for one in node.input[:2] if one not in model.constants)
        macs = int(shapes[name].size) * _depth(model, node, shapes[depths.get(node.output[0], name)].shape)
        found.append(Product(node.name, operands, macs))
    return tuple(found)


def _depth(model: FloatModel, node: NodeProto, operand: tuple[int, ...]) -> int:
    """Multiplications for each number of the output; of the input, for a ConvTranspose."""
    weight = model.weight_of(node)
    if weight is None:
        return operand[-1]
    dims: tuple[int, ...] = model.constants[weight].shape
    if node.op_type in ("Conv", "ConvTranspose"):
        return int(np.prod(dims[1:]))
    if node.op_type == "Gemm":
        transposed = any(one.name == "transB" and one.i for one in node.attribute)
        return dims[1] if transposed else dims[0]
    return dims[-2] if len(dims) > 1 else dims[0]
