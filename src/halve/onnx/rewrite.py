"""An ONNX model of anybody's with the weights of its linear layers quantized; the rest of its graph as it was.

A weight's initializer becomes the output of a DequantizeLinear under the same name, shape and type, so that whatever
used it still does.
"""

from collections.abc import Iterator, Mapping, Sequence

from onnx import GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, helper, version_converter

from halve.checkpoint.base import TensorInfo
from halve.checkpoint.onnx_checkpoint import shown
from halve.checkpoint.onnx_file import opset, replace_nodes
from halve.checkpoint.onnx_graph import Graph, Linear, integer
from halve.checkpoint.onnx_types import TYPES, OnnxType
from halve.errors import CheckpointError, UnsupportedError
from halve.onnx import parts, qdq
from halve.onnx.builder import Builder
from halve.onnx.parts import Part, Parts
from halve.schemes import Scheme


def rewritten(
    source: bytes, entries: Sequence[TensorInfo], quantized: Mapping[str, Scheme]
) -> tuple[ModelProto, list[Part]]:
    """The model ``source``, a graph without its data, with the weights of the modules ``quantized`` replaced.

    Also returned are the initializers that ``entries`` are, in their order, which are still to be placed.

    Raises UnsupportedError for a graph that cannot hold these schemes, CheckpointError where entries are missing.
    """
    model = ModelProto()
    model.ParseFromString(source)
    model = raised(model, max(map(parts.opset, quantized.values()), default=0))
    work = _Rewrite(model.graph, entries, quantized)
    work.run()
    return model, work.placed


class _Rewrite:
    """One graph, changed in place."""

    def __init__(self, graph: GraphProto, entries: Sequence[TensorInfo], quantized: Mapping[str, Scheme]) -> None:
        self.graph = graph
        self.found = Graph(graph)
        self.entries = {entry.name: entry for entry in entries}
        self.builder = Builder(set(_names(graph)))
        self.stored: dict[str, tuple[Linear, Parts]] = {}  # by value
        for linear in self.found.linears.values():
            scheme = quantized.get(linear.name.removesuffix(".weight"))
            if scheme is not None:
                self.stored[linear.value] = linear, self._parts(linear, scheme)
        by_entry: dict[str, Part] = {part.name: part for _, stored in self.stored.values() for part in stored}
        by_entry |= dict(self._kept())
        if missing := self.entries.keys() ^ by_entry.keys():
            raise CheckpointError(
                f"{min(missing)} is in the graph or in the plan, but not in both",
                hint="the model has been changed while it was read: quantize it again",
            )
        self.placed = [by_entry[name] for name in self.entries]

    def run(self) -> None:
        """Replace initializers and products."""
        gone = self.stored.keys()
        kept = [tensor for tensor in self.graph.initializer if tensor.name not in gone]
        kinds = {tensor.name: TYPES[tensor.data_type] for tensor in self.graph.initializer if tensor.name in gone}
        for value, (linear, stored) in self.stored.items():
            qdq.weight(self.builder, stored, value, transposed=linear.transposed, kind=kinds[value])
        of_product = {id(p): (linear, stored) for linear, stored in self.stored.values() for p in linear.products}
        for node in self.graph.node:
            if id(node) in of_product:
                linear, stored = of_product[id(node)]
                self._round(node, stored, kinds[linear.value])
            self.builder.nodes.append(node)
        replace_nodes(self.graph, self.builder.nodes)
        copies = GraphProto(initializer=[*kept, *self.builder.initializers])
        del self.graph.initializer[:]
        self.graph.initializer.extend(copies.initializer)
        inputs = GraphProto(input=[value for value in self.graph.input if value.name not in gone])
        del self.graph.input[:]
        self.graph.input.extend(inputs.input)

    def _parts(self, linear: Linear, scheme: Scheme) -> Parts:
        if scheme.dense:
            raise UnsupportedError(
                f"an ONNX model is not cast to {scheme.name}: its operators have types of their own",
                hint="quantize its weights, such as with --scheme w8a16",
            )
        if linear.dequantize is not None:
            raise UnsupportedError(f"{linear.name} is quantized already", hint="start from the model before that")
        rows, columns = self.found.dims[linear.value][:: -1 if linear.transposed else 1]
        return parts.parts(linear.name, (rows, columns), scheme)

    def _kept(self) -> Iterator[tuple[str, Part]]:
        """Initializers that stay, by the name of their entry; their data has been taken out of the graph."""
        linears = {linear.value: linear for linear in self.found.linears.values() if linear.dequantize is None}
        for tensor in self.graph.initializer:
            if tensor.name in self.stored or tensor.data_location != TensorProto.EXTERNAL:
                continue
            linear, dims = linears.get(tensor.name), tuple(tensor.dims)
            kind = TYPES[tensor.data_type]
            name = shown(kind.info(tensor.name, dims), linear).name
            yield name, Part(tensor.name, kind, dims, columns=linear is not None and linear.transposed)

    def _round(self, product: NodeProto, stored: Parts, kind: OnnxType) -> None:
        """Put the rounding of activations before a product."""
        if stored.scheme.activation is not None and integer(product, "transA"):
            raise UnsupportedError(
                f"{product.name}: a Gemm with a transposed left operand, whose tokens are columns",
                hint="use a scheme without activations, such as w8a16, or --ignore this weight",
            )
        product.input[0] = qdq.inputs(self.builder, product.input[0], stored, kind)


def raised(model: ModelProto, version: int) -> ModelProto:
    """``model`` in operators of ``version`` at least."""
    found = opset(model)
    if found < version:
        model.ir_version = max(model.ir_version, 4)  # since which initializers need not be inputs
        try:
            model = version_converter.convert_version(model, version)
        except (version_converter.ConvertError, RuntimeError, ValueError) as error:
            why = str(error).rpartition(" failed: ")[2]  # behind a place in the library's own source
            raise UnsupportedError(
                f"the model uses opset {found}, and its operators cannot be raised to {version}: {why}",
                hint=f"export it again with opset {version}, or use a scheme that needs less, such as w8a16",
            ) from None
    model.ir_version = max(model.ir_version, helper.find_min_ir_version_for(_known(model), ignore_unknown=True))
    return model


def _known(model: ModelProto) -> list[OperatorSetIdProto]:
    """Operator sets whose IR version the library knows."""
    return [one for one in model.opset_import if one.domain in ("", "ai.onnx", "ai.onnx.ml")]


def _names(graph: GraphProto) -> Iterator[str]:
    """Every name in a graph that a new value must not have."""
    for node in graph.node:
        yield from node.input
        yield from node.output
    for group in (graph.initializer, graph.input, graph.output):
        yield from (one.name for one in group)
