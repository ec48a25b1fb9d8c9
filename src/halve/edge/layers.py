"""The layers of an ONNX model as an NPU sees them: products with what is fused behind them, and whatever moves data.

A layer is a node that computes or moves, together with the functions of its output alone (ReLU, SiLU written as a
sigmoid and a product, a batch norm). Weights are not read: their shapes are all that costs and limits need.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from halve.checkpoint.onnx_file import parse
from halve.edge.folding import folded, small
from halve.edge.operators import CURVES, LINEAR
from halve.errors import CheckpointError, UnsupportedError

Dtype = Literal["INT8", "INT16", "FP16"]
Shape = tuple[int, ...]
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SHAPES = ("Shape", "Size", "Range", "ConstantOfShape", "EyeLike")
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_CONTRIB = tuple(("com.microsoft", one) for one in _QUANTIZERS)
_SILENT = ("Identity", "Dropout", "Cast")
_CODES: dict[int, Dtype] = {
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "INT8",
    TensorProto.INT16: "INT16",
    TensorProto.UINT16: "INT16",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One step. ``inputs`` are the shapes of activations, ``weights`` elements of constants.

    ``macs`` are multiplications. ``dtype`` is what a quantized model stores its operand in; None in a float model.
    ``fused`` are the operators behind.
    """

    name: str
    op: str
    inputs: tuple[Shape, ...]
    output: Shape
    weights: int = 0
    macs: int = 0
    kernel: Shape = ()
    stride: Shape = ()
    pads: Shape = ()
    dilation: Shape = ()
    group: int = 1
    fused: tuple[str, ...] = ()
    dtype: Dtype | None = None
    curved: bool = False  # whether a function that is not piecewise linear is part of it
    detail: str = ""  # an attribute that limits look at: mode, perm, axis

    @property
    def depthwise(self) -> bool:
        """Whether each output channel sees one input channel alone."""
        return self.op == "Conv" and self.group > 1 and self.group == self.inputs[0][1]


@dataclass(frozen=True, slots=True)
class Table:
    """The layers of a model, the shapes of its inputs and outputs, and whether it is quantized."""

    layers: tuple[Layer, ...]
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    quantized: bool


def read(path: Path, shapes: Mapping[str, Shape] | None = None) -> Table:
    """The layers of the model at ``path``. ``shapes`` fixes inputs whose dimensions are open; an open batch is 1.

    Raises CheckpointError for a file that is no ONNX model, UnsupportedError for dimensions that are open, for shapes
    that cannot be told without running the model, for branches and loops, and for operators that ONNX does not have.
    """
    model = parse(path)
    _lighten(model)
    return table(model, str(path), shapes or {})


def table(model: ModelProto, name: str, shapes: Mapping[str, Shape]) -> Table:
    """As `read`, of a model in memory that errors call ``name``."""
    _check(model, name)
    fixed = _fixed(model, name, shapes)
    try:
        inferred = folded(_plain(fixed))
    except onnx.shape_inference.InferenceError as error:
        raise CheckpointError(f"{name}: its shapes contradict each other: {error}", hint="export it again") from None
    known = {
        value.name: tuple(d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim)
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if value.type.tensor_type.HasField("shape")
    }
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    reader = _Reader(name, known, types)
    for tensor in inferred.initializer:
        reader.constants[tensor.name] = prod(tensor.dims)
        reader.shapes[tensor.name] = tuple(tensor.dims)
        reader.types[tensor.name] = tensor.data_type
    for node in fixed.graph.node:
        reader.add(node)
    weights = set(reader.constants)
    return Table(
        tuple(reader.layers),
        {one.name: known[one.name] for one in inferred.input if one.name not in weights},
        {one.name: known.get(one.name, ()) for one in inferred.output},
        reader.quantized,
    )


def _lighten(model: ModelProto) -> None:
    """Drop the data of weights, which nothing here looks at, before copies are made."""
    constants = (a.t for node in model.graph.node if node.op_type == "Constant" for a in node.attribute)
    for tensor in (*model.graph.initializer, *constants):
        if not small(tensor.dims):
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
                tensor.ClearField(field)


def _check(model: ModelProto, name: str) -> None:
    """Raise UnsupportedError for branches, loops and operators that ONNX does not have."""
    for node in model.graph.node:
        if any(attribute.HasField("g") for attribute in node.attribute):
            raise UnsupportedError(
                f"{name}: {node.op_type} {node.name} chooses between graphs while it runs, which NPUs cannot",
                hint="export one branch alone: fix what it depends on, such as the sampling rate",
            )
        if node.domain not in ("", "ai.onnx") and (node.domain, node.op_type) not in _CONTRIB:
            raise UnsupportedError(
                f"{name}: {node.op_type} of {node.domain} is no ONNX operator", hint="export it in plain operators"
            )


def _fixed(model: ModelProto, name: str, shapes: Mapping[str, Shape]) -> ModelProto:
    """``model`` with inputs of fixed sizes."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in weights]
    if unknown := sorted(set(shapes) - {one.name for one in inputs}):
        raise UnsupportedError(
            f"{name} has no input {unknown[0]}", hint=f"its inputs: {', '.join(one.name for one in inputs)}"
        )
    fixed = ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]  # of other shapes than those asked for
    for one in fixed.graph.output:
        one.type.tensor_type.ClearField("shape")
    for one in (value for value in fixed.graph.input if value.name not in weights):
        _fix(one, shapes.get(one.name, ()), name)
    return fixed


def _plain(model: ModelProto) -> ModelProto:
    """``model`` with casts for the Q/DQ nodes of ONNX Runtime's own domain, whose shapes nobody else infers."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    plain = ModelProto()
    plain.CopyFrom(model)
    for node in plain.graph.node:
        if (node.domain, node.op_type) in _CONTRIB:
            code = types.get(node.input[2], TensorProto.UINT8) if len(node.input) > 2 else TensorProto.UINT8
            to = code if node.op_type == "QuantizeLinear" else TensorProto.FLOAT
            node.CopyFrom(helper.make_node("Cast", node.input[:1], node.output, name=node.name, to=to))
    return plain


def _fix(value: ValueInfoProto, wanted: Shape, name: str) -> None:
    """Give an input the dimensions ``wanted``, or its own where there are none."""
    dims = value.type.tensor_type.shape.dim
    if wanted and len(wanted) != len(dims):
        raise UnsupportedError(
            f"{name}: {value.name} has {len(dims)} dimensions, not {len(wanted)}",
            hint=f"--shape {value.name}={','.join(['1'] * len(dims))}, with your sizes",
        )
    own = [max(dim.dim_value, 0) or int(index == 0) for index, dim in enumerate(dims)]  # an open batch is 1
    if not wanted and 0 in own:
        sizes = ",".join(str(size or "N") for size in own)
        raise UnsupportedError(
            f"{name}: dimension {own.index(0)} of {value.name} is open, and an NPU is compiled for one size",
            hint=f"--shape {value.name}={sizes}, with a number for every N",
        )
    for dim, size in zip(dims, wanted or own, strict=True):
        dim.Clear()
        dim.dim_value = size


class _Reader:
    """Walks over the nodes in order. ``roots`` are activations that are functions of one layer's output alone."""

    def __init__(self, name: str, shapes: Mapping[str, Shape], types: Mapping[str, int]) -> None:
        self.name, self.shapes, self.types = name, dict(shapes), dict(types)
        self.constants: dict[str, int] = {}
        self.layers: list[Layer] = []
        self.roots: dict[str, int] = {}
        self.dtypes: dict[str, Dtype] = {}
        self.quantized = False

    def add(self, node: NodeProto) -> None:
        """Take in the next node."""
        operands = [one for one in node.input if one and one not in self.constants]
        if any(one in self.constants for one in node.output):
            return  # computed beforehand
        if node.op_type in ("Constant", *_SHAPES) or (node.input and not operands):
            self._constant(node)
        elif node.op_type in _QUANTIZERS:
            self._through_codes(node)
        elif node.op_type in _SILENT:
            self._alias(node.input[0], node.output[0])
        elif (root := self._root(node, operands)) is not None:
            old = self.layers[root]
            bent = old.curved or _curved(node, operands)
            self.layers[root] = replace(old, fused=(*old.fused, node.op_type), curved=bent)
            self.roots[node.output[0]] = root
        else:
            self._layer(node, operands)

    def _constant(self, node: NodeProto) -> None:
        for attribute in node.attribute:
            if attribute.name == "value" and node.op_type == "Constant":
                self.shapes[node.output[0]] = tuple(attribute.t.dims)
                self.types[node.output[0]] = attribute.t.data_type
        for output in node.output:
            self.constants[output] = prod(self.shapes.get(output, (1,)))

    def _through_codes(self, node: NodeProto) -> None:
        """Codes between two layers are how data is stored, no step of their own."""
        self.quantized = True
        self._alias(node.input[0], node.output[0])
        stored = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        if (dtype := _CODES.get(self.types.get(stored, 0))) is not None:
            self.dtypes[node.output[0]] = dtype

    def _alias(self, old: str, new: str) -> None:
        if old in self.roots:
            self.roots[new] = self.roots[old]
        if old in self.dtypes:
            self.dtypes[new] = self.dtypes[old]

    def _root(self, node: NodeProto, operands: list[str]) -> int | None:
        """The layer that a function of one activation belongs to."""
        if node.op_type not in LINEAR | CURVES:
            return None
        found = {self.roots.get(one, -1) for one in operands}
        return found.pop() if len(found) == 1 and -1 not in found and self._same(node, operands) else None

    def _same(self, node: NodeProto, operands: list[str]) -> bool:
        """Whether it is of the shape of its operands: a function of every element."""
        return all(self.shape(one) == self.shape(node.output[0]) for one in operands)

    def shape(self, name: str) -> Shape:
        """The shape of ``name``. Raises UnsupportedError where it cannot be told."""
        found = self.shapes.get(name)
        if found is None or any(size < 0 for size in found):
            raise UnsupportedError(
                f"{self.name}: the shape of {name} depends on data, and an NPU is compiled for one size",
                hint="fix the inputs with --shape, simplify the model (onnxsim), or cut its post-processing off",
            )
        return found

    def _layer(self, node: NodeProto, operands: list[str]) -> None:
        attributes: dict[str, Any] = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        output = self.shape(node.output[0])
        inputs = tuple(self.shape(one) for one in operands)
        constants = [one for one in node.input if one in self.constants]
        layer = Layer(
            name=node.name or node.output[0],
            op=node.op_type,
            inputs=inputs,
            output=output,
            weights=sum(self.constants[one] for one in constants) if node.op_type in PRODUCTS else 0,
            macs=self._macs(node, inputs, output),
            kernel=self._kernel(node, attributes),
            stride=tuple(attributes.get("strides", ())),
            pads=tuple(attributes.get("pads", ())),
            dilation=tuple(attributes.get("dilations", ())),
            group=int(attributes.get("group", 1)),
            dtype=self._dtype(operands),
            curved=node.op_type in CURVES,
            detail=_detail(attributes),
        )
        if node.op_type in LINEAR | CURVES | frozenset(PRODUCTS):
            self.roots[node.output[0]] = len(self.layers)
        self.layers.append(layer)

    def _dtype(self, operands: Iterable[str]) -> Dtype | None:
        """Of the first operand; FP16 for what a quantized model leaves in floats."""
        found = next((self.dtypes[one] for one in operands if one in self.dtypes), None)
        return found or ("FP16" if self.quantized else None)

    def _kernel(self, node: NodeProto, attributes: Mapping[str, Any]) -> Shape:
        if node.op_type in ("Conv", "ConvTranspose"):
            return self.shape(node.input[1])[2:]
        return tuple(attributes.get("kernel_shape", ()))

    def _macs(self, node: NodeProto, inputs: tuple[Shape, ...], output: Shape) -> int:
        if node.op_type not in PRODUCTS:
            return 0
        weight = self.shape(node.input[1])
        if node.op_type == "Conv":
            return prod(output) * prod(weight[1:])
        if node.op_type == "ConvTranspose":
            return prod(inputs[0]) * prod(weight[1:])
        return prod(output) * self.shape(node.input[0])[-1]


def _curved(node: NodeProto, operands: list[str]) -> bool:
    """Whether a function of one activation has a curve: by its name, or as the product of two functions of it."""
    return node.op_type in CURVES or (node.op_type in ("Mul", "Div") and len(operands) > 1)


def _detail(attributes: Mapping[str, Any]) -> str:
    for name in ("mode", "perm", "axis"):
        if name in attributes:
            value = attributes[name]
            return f"{name} {value.decode() if isinstance(value, bytes) else value}"
    return ""


def merged(layers: Iterable[Layer]) -> tuple[tuple[int, Layer], ...]:
    """Layers that differ in nothing but their names, counted."""
    return tuple((count, layer) for layer, count in Counter(replace(one, name="") for one in layers).items())
