"""A float model with QuantizeLinear and DequantizeLinear where an integer target rounds."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from halve.edge.affine import TYPES, Activations, Floats, Range, along, weight_codes, weight_scales
from halve.edge.model import FloatModel
from halve.onnx.rewrite import raised

_INT16_OPSET = 21  # the first whose QuantizeLinear makes 16 bits
CONTRIB = "com.microsoft"
_INT32 = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Codes:
    """A weight: INT8 ``codes`` in the shape of the float one, and scales along ``axis`` (None: one scale)."""

    codes: NDArray[np.int8]
    scales: Floats
    axis: int | None

    @property
    def values(self) -> Floats:
        """What the codes stand for."""
        found: Floats = self.codes.astype(np.float32) * along(self.scales, self.axis, self.codes.ndim)
        return found


@dataclass(frozen=True, slots=True)
class Integers:
    """How everything is stored: ranges and types of activations by name, weights and float biases by constant."""

    ranges: Mapping[str, Range]
    weights: Mapping[str, Codes]
    biases: Mapping[str, Floats] = field(default_factory=dict)
    wide: frozenset[str] = frozenset()  # activations in 16 bits
    activations: Activations = "int8"

    def kind(self, name: str) -> Activations:
        """The type of an activation."""
        return "int16" if name in self.wide else self.activations

    def affine(self, name: str) -> tuple[np.float32, int]:
        """Scale and zero point of an activation."""
        return self.ranges[name].affine(self.kind(name))


def nearest(model: FloatModel, node: NodeProto, limit: int = 127) -> Codes:
    """The weight of a product in INT8, rounded to nearest, with a scale for each channel of the output."""
    name = model.weight_of(node)
    assert name is not None  # noqa: S101 - callers ask for products with weights only
    weight = model.constants[name].astype(np.float32)
    axis = channel_axis(node, weight.ndim)
    scales = weight_scales(weight, axis, limit)
    return Codes(weight_codes(weight, scales, axis, limit), scales, axis)


def channel_axis(node: NodeProto, dims: int) -> int | None:
    """Which axis of a product's weight is that of its output; None where channels share scales."""
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if attributes.get("group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if attributes.get("transB", 0) else 1
    return dims - 1 if dims >= 2 else None


def quantized(model: FloatModel, integers: Integers, *, adjustable: bool = False, contrib: bool = False) -> ModelProto:
    """``model`` with the rounding of ``integers``.

    ``adjustable`` makes scales and zero points inputs of the graph, under the names that `scale` and `zero` give, whose
    values are overridden without a new session. ``contrib`` writes 16-bit codes with ONNX Runtime's own operators and
    leaves the operator set as it is.
    """
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    _Insertion(model, integers, proto, adjustable=adjustable, contrib=contrib).run()
    wide = integers.activations == "int16" or bool(integers.wide)
    if wide and contrib:
        proto.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    return raised(proto, _INT16_OPSET) if wide and not contrib else proto


def scale(name: str) -> str:
    """What the scale of an activation is called."""
    return f"{name}_scale"


def zero(name: str) -> str:
    """What its zero point is called."""
    return f"{name}_zero_point"


class _Insertion:
    """Changes ``proto`` in place."""

    def __init__(
        self, model: FloatModel, integers: Integers, proto: ModelProto, *, adjustable: bool, contrib: bool
    ) -> None:
        self.model, self.integers, self.graph = model, integers, proto.graph
        self.adjustable, self.contrib = adjustable, contrib
        self.nodes: list[NodeProto] = []
        self.renamed: dict[str, str] = {}
        self.weights: set[str] = set()

    def run(self) -> None:
        for one in self.model.inputs:
            self._store(one.name)
        for node in self.graph.node:
            fresh = NodeProto()
            fresh.CopyFrom(node)
            fresh.input[:] = [self.renamed.get(name, name) for name in node.input]
            self._weigh(node, fresh)
            self.nodes.append(fresh)
            for name in node.output:
                self._store(name)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        gone = self.weights | set(self.integers.biases)
        used = {name for node in self.nodes for name in node.input}
        kept = [one for one in self.graph.initializer if one.name not in gone or one.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _constant(self, name: str, value: NDArray[np.generic], *, free: bool = False) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        if free and self.adjustable:
            code = helper.np_dtype_to_tensor_dtype(value.dtype)
            self.graph.input.append(helper.make_tensor_value_info(name, code, value.shape))
        return name

    def _node(
        self, operator: str, inputs: list[str], output: str, *, axis: int | None = None, domain: str = ""
    ) -> None:
        node = helper.make_node(operator, inputs, [output], name=output, domain=domain)
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self.nodes.append(node)

    def _store(self, name: str) -> None:
        """Round an activation, for all that use it but the graph's own outputs."""
        if name not in self.integers.ranges:
            return
        kind = self.integers.kind(name)
        step, offset = self.integers.affine(name)
        constants = [
            self._constant(scale(name), np.asarray(step, np.float32), free=True),
            self._constant(zero(name), np.asarray(offset, TYPES[kind]), free=True),
        ]
        domain = CONTRIB if self.contrib and kind == "int16" else ""
        self._node("QuantizeLinear", [name, *constants], f"{name}_codes", domain=domain)
        self._node("DequantizeLinear", [f"{name}_codes", *constants], f"{name}_rounded", domain=domain)
        self.renamed[name] = f"{name}_rounded"

    def _weigh(self, node: NodeProto, fresh: NodeProto) -> None:
        """Put codes in place of a product's weight, and of its bias."""
        name = self.model.weight_of(node)
        if name is None or name not in self.integers.weights:
            return
        found = self.integers.weights[name]
        if name not in self.weights:
            self.weights.add(name)
            zeros = np.zeros(found.scales.shape, np.int8)
            parts = [
                self._constant(f"{name}_codes", found.codes),
                self._constant(scale(name), found.scales),
                self._constant(zero(name), zeros),
            ]
            self._node("DequantizeLinear", parts, f"{name}_rounded", axis=found.axis)
        fresh.input[1] = f"{name}_rounded"
        if len(node.input) > 2 and node.input[2] in self.integers.biases:
            fresh.input[2] = self._bias(node, found)

    def _bias(self, node: NodeProto, weight: Codes) -> str:
        """The bias in INT32 under the product of the scales, or in float where it does not fit."""
        name, activation = node.input[2], node.input[0]
        bias = self.integers.biases[name]
        output = f"{node.name}_bias"
        if self.adjustable or activation not in self.integers.ranges or bias.ndim != 1:
            return self._constant(output, bias, free=True)
        scales = np.asarray(self.integers.affine(activation)[0] * weight.scales, np.float32)
        if (scales <= 0).any():
            return self._constant(output, bias)
        codes = np.rint(bias.astype(np.float64) / scales)
        if np.abs(codes).max(initial=0) > _INT32:
            return self._constant(output, bias)
        parts = [
            self._constant(f"{output}_codes", codes.astype(np.int32)),
            self._constant(f"{output}_scale", scales),
        ]
        self._node("DequantizeLinear", parts, output, axis=None if weight.axis is None else 0)
        return output
