"""What an integer target computes for a product of a QDQ model, number by number.

Codes less their zero points are multiplied and summed in INT32, the bias is in the sum; the sum times one FP32 number,
(input scale * weight scale) / output scale, is rounded to even, the output's zero point is added, and what does not
fit is cut off. ONNX Runtime does the same, bit for bit, where its kernels sum exactly: on x86 with VNNI, or without it
with weights of 7 bits (AVX2's vpmaddubsw adds two products of 8 by 8 bits in 16, and saturates).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from halve.edge.affine import Floats, along
from halve.edge.windows import windows

_OPERATORS = ("Conv", "Gemm", "MatMul")
Integer = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Affine:
    """Codes of an activation: their name in the graph, the FP32 scale, the zero point, of the codes' type."""

    codes: str
    scale: np.float32
    zero: np.integer[Any]


@dataclass(frozen=True, slots=True, eq=False)
class IntegerProduct:
    """A Conv, Gemm or MatMul from codes to codes, with a ReLU behind it or without.

    ``weights`` are codes as the operator takes them, ``scales`` theirs along ``axis`` (None: one scale), ``bias`` is in
    INT32 along the channels.
    """

    node: NodeProto
    source: Affine
    weights: NDArray[np.int8]
    scales: Floats
    axis: int | None
    bias: NDArray[np.int32] | None
    rectified: bool
    target: Affine

    def sums(self, codes: Integer) -> NDArray[np.int64]:
        """The accumulators for ``codes`` of the source."""
        values = codes.astype(np.float64) - float(self.source.zero)  # FP64 sums are exact below 2^53
        weights, attributes = self.weights.astype(np.float64), _attributes(self.node)
        if self.node.op_type == "Conv":
            found = _convolved(values, weights, attributes)
        else:
            values = values.T if attributes.get("transA", 0) else values
            found = values @ (weights.T if attributes.get("transB", 0) else weights)
        if self.bias is not None:
            found = found + self.bias.reshape([-1] + [1] * (found.ndim - 2 if self.node.op_type == "Conv" else 0))
        return found.astype(np.int64)

    def run(self, codes: Integer) -> Integer:
        """Codes of the target for ``codes`` of the source."""
        sums = self.sums(codes)
        scales = np.float32(self.source.scale) * self.scales / np.float32(self.target.scale)
        channels = None if self.axis is None else 1 if self.node.op_type == "Conv" else sums.ndim - 1
        rounded = np.rint(sums.astype(np.float32) * along(scales, channels, sums.ndim)).astype(np.int64)
        zero, limits = int(self.target.zero), np.iinfo(self.target.zero.dtype)
        lowest = max(zero, int(limits.min)) if self.rectified else int(limits.min)
        found: Integer = np.clip(rounded + zero, lowest, limits.max).astype(self.target.zero.dtype)
        return found


def integer_products(proto: ModelProto) -> Iterator[IntegerProduct]:
    """The products of ``proto`` whose input and output are codes and whose weights are constant ones."""
    graph = _Graph(proto)
    for node in proto.graph.node:
        found = graph.product(node) if node.op_type in _OPERATORS else None
        if found is not None:
            yield found


class _Graph:
    def __init__(self, proto: ModelProto) -> None:
        self.constants = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
        self.producers = {name: node for node in proto.graph.node for name in node.output}
        self.users: dict[str, list[NodeProto]] = {}
        for node in proto.graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def product(self, node: NodeProto) -> IntegerProduct | None:
        attributes = _attributes(node)
        weights, source = self._constant(node.input[1]), self._before(node.input[0])
        target, rectified = self._behind(node.output[0])
        bias = self._constant(node.input[2]) if len(node.input) > 2 else None
        if weights is None or source is None or target is None or (len(node.input) > 2 and bias is None):
            return None
        if attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1 or weights[0].dtype != np.int8:
            return None
        codes, scales, axis = weights
        return IntegerProduct(
            node, source, codes, scales, axis if scales.ndim else None, bias[0] if bias else None, rectified, target
        )

    def _constant(self, name: str) -> tuple[NDArray[Any], Floats, int] | None:
        """Codes, scales and their axis, of a constant behind a DequantizeLinear."""
        node = self.producers.get(name)
        if node is None or node.op_type != "DequantizeLinear" or not {*node.input} <= self.constants.keys():
            return None
        codes = self.constants[node.input[0]]
        return codes, self.constants[node.input[1]], int(_attributes(node).get("axis", 1)) % max(codes.ndim, 1)

    def _before(self, name: str) -> Affine | None:
        node = self.producers.get(name)
        return self._affine(node, node.input[0]) if node is not None and node.op_type == "DequantizeLinear" else None

    def _behind(self, name: str) -> tuple[Affine | None, bool]:
        """How ``name`` is rounded, if it is used for nothing else; whether a ReLU comes first."""
        users = self.users.get(name, [])
        if len(users) != 1:
            return None, False
        if users[0].op_type == "Relu":
            return self._behind(users[0].output[0])[0], True
        found = users[0] if users[0].op_type == "QuantizeLinear" else None
        return (self._affine(found, found.output[0]) if found is not None else None), False

    def _affine(self, node: NodeProto, codes: str) -> Affine | None:
        if len(node.input) < 3 or not {*node.input[1:]} <= self.constants.keys():
            return None
        scale, zero = (self.constants[name] for name in node.input[1:])
        return Affine(codes, np.float32(scale), zero.dtype.type(zero)) if not scale.ndim else None


def _convolved(
    values: NDArray[np.float64], weights: NDArray[np.float64], attributes: Mapping[str, Any]
) -> NDArray[np.float64]:
    groups, kernel = int(attributes.get("group", 1)), weights.shape[2:]
    seen = np.moveaxis(windows(values, kernel, attributes), 1, 1 + len(kernel))  # [batch, positions, channels, kernel]
    batch, *positions = seen.shape[: 1 + len(kernel)]
    columns = seen.reshape(batch, -1, groups, weights[0].size)
    rows = weights.reshape(groups, -1, weights[0].size)
    found: NDArray[np.float64] = np.einsum("bpgc,grc->bgrp", columns, rows, optimize=True)
    return found.reshape(batch, len(weights), *positions)


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {one.name: helper.get_attribute_value(one) for one in node.attribute}
