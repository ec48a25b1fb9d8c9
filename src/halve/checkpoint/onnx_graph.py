"""Which constant matrices of an ONNX graph are weights of linear layers: right operands of MatMul and Gemm.

A weight may pass through Transpose, Cast and Identity, and it may come out of a DequantizeLinear. It counts as a
linear layer's only where nothing but MatMul and Gemm of the main graph uses it, all in the same orientation.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto

_STEPS = 16  # operators between a constant and the product; real graphs have two
_PLAIN = ("", "ai.onnx")
_OPERATOR = re.compile(r"/(MatMul|Gemm)(_\d+)?$")
DEQUANTIZED = "_dequantized"  # what halve adds to a weight's name where a Cast or a Transpose gives the weight itself


@dataclass(frozen=True, slots=True)
class Linear:
    """A constant matrix and the products it is used in.

    ``value`` is the initializer, or the output of ``dequantize``, a DequantizeLinear. ``transposed`` says that it is
    [in, out]. ``name`` is what halve calls it.
    """

    value: str
    name: str
    transposed: bool
    products: tuple[NodeProto, ...]
    dequantize: NodeProto | None = None


@dataclass(slots=True)
class Graph:
    """A graph looked at from its constants. Reads no data."""

    graph: GraphProto
    dims: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of initializers
    producers: dict[str, NodeProto] = field(default_factory=dict)
    users: dict[str, list[tuple[NodeProto, int]]] = field(default_factory=dict)  # value -> nodes, and which input it is
    captured: set[str] = field(default_factory=set)  # values that nodes inside of If, Loop and Scan use
    linears: dict[str, Linear] = field(default_factory=dict)  # by the name that halve gives
    left_alone: list[str] = field(default_factory=list)  # products whose constant operand is no linear weight, and why

    def __post_init__(self) -> None:
        graph = self.graph
        self.dims = {tensor.name: tuple(int(size) for size in tensor.dims) for tensor in graph.initializer}
        for node in graph.node:
            for output in node.output:
                self.producers[output] = node
            for position, value in enumerate(node.input):
                self.users.setdefault(value, []).append((node, position))
            for body in _bodies(node):
                self.captured.update(_used_inside(body))
        inside = sum(1 for node in graph.node for body in _bodies(node) for _ in products(body))
        if inside:
            self.left_alone.append(f"{inside} MatMul or Gemm inside of If, Loop or Scan")
        self._find()

    def constant(self, value: str) -> bool:
        """Whether ``value`` is an initializer."""
        return value in self.dims

    def _find(self) -> None:
        """Fill ``linears``."""
        uses: dict[str, list[tuple[NodeProto, bool]]] = {}
        for product in products(self.graph):
            if len(product.input) < 2:
                continue
            root, transposed = self._root(product.input[1])
            if not root:
                if why := self._operand(product):
                    self.left_alone.append(f"{product.name or ', '.join(product.output)}: {why}")
                continue
            transposed ^= not integer(product, "transB")  # an untransposed right operand is [in, out]
            uses.setdefault(root, []).append((product, transposed))
        for value, found in uses.items():
            if why := self._why_not(value, found):
                self.left_alone.append(f"{value}: {why}")
                continue
            name = self._name(value, found[0][0])
            used_by = tuple(product for product, _ in found)
            self.linears[name] = Linear(value, name, found[0][1], used_by, self._dequantize(value))

    def _operand(self, product: NodeProto) -> str:
        """Why the constant operand of a product is no weight; empty where neither is constant."""
        if self.constant(product.input[1]):
            return f"its constant operand has {len(self.dims[product.input[1]])} dimensions"
        return "its constant operand is the left one" if self._root(product.input[0])[0] else ""

    def _root(self, value: str) -> tuple[str, bool]:
        """The constant that ``value`` is a view of, and whether transposed; an empty name where there is none."""
        transposed = False
        for _ in range(_STEPS):
            if self.constant(value):
                matrix = len(self.dims[value]) == 2 and all(self.dims[value])
                return (value, transposed) if matrix else ("", False)
            if self._dequantize(value) is not None:
                return value, transposed
            node = self.producers.get(value)
            if node is None or node.domain not in _PLAIN or not node.input:
                break
            match node.op_type:
                case "Transpose" if _permutation(node) in ([], [1, 0]):
                    transposed = not transposed
                case "Cast" | "Identity":
                    pass
                case _:
                    break
            value = node.input[0]
        return "", False

    def _dequantize(self, value: str) -> NodeProto | None:
        """The DequantizeLinear of a constant matrix that gives ``value``."""
        node = self.producers.get(value)
        if node is None or node.op_type != "DequantizeLinear" or node.domain not in _PLAIN or len(node.input) < 2:
            return None
        dims = self.dims.get(node.input[0], ())
        return node if len(dims) == 2 and all(dims) else None

    def _why_not(self, value: str, uses: list[tuple[NodeProto, bool]]) -> str:
        """Why a constant of products is not the weight of a linear layer; empty where it is."""
        products = {id(product) for product, _ in uses}
        if len({transposed for _, transposed in uses}) > 1:
            return "some products use it as [in, out] and others as [out, in]"
        seen: set[str] = set()
        todo = [value]
        while todo:
            one = todo.pop()
            if one in self.captured:
                return "nodes inside of If, Loop or Scan use it too"
            if one in seen:
                continue
            seen.add(one)
            for node, position in self.users.get(one, ()):
                if id(node) in products and position == 1:
                    continue
                if node.domain not in _PLAIN or node.op_type not in ("Transpose", "Cast", "Identity"):
                    return f"{node.op_type} uses it too"
                todo.extend(node.output)
        if seen & {output.name for output in self.graph.output}:
            return "it is an output of the model"
        return ""

    def _name(self, value: str, product: NodeProto) -> str:
        """A weight's name as checkpoints have them: ``*.weight``.

        Exporters that call a weight ``onnx::MatMul_123`` call the product ``/model/layers.0/mlp/up_proj/MatMul``.
        """
        own = stem = value.removesuffix(DEQUANTIZED)
        if "::" in stem or stem.startswith("/"):
            stem = _OPERATOR.sub("", product.name or stem).strip("/").replace("/", ".") or stem
        name = stem if stem.endswith(".weight") else f"{stem}.weight"
        # Values keep their names when they are quantized, so that a weight is called the same before and after.
        while name in self.linears or (name != own and (name in self.producers or name in self.dims)):
            name = f"{name.removesuffix('.weight')}.{own.replace('/', '.').strip('.')}.weight"
        return name


def integer(node: NodeProto, name: str, default: int = 0) -> int:
    """An integer attribute of ``node``."""
    return next((int(found.i) for found in node.attribute if found.name == name), default)


def _permutation(node: NodeProto) -> list[int]:
    """The order of axes of a Transpose; empty where it says none."""
    return next((list(found.ints) for found in node.attribute if found.name == "perm"), [])


def products(graph: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    """MatMul and Gemm nodes of ``graph`` itself."""
    return (node for node in graph.node if node.op_type in ("MatMul", "Gemm") and node.domain in _PLAIN)


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs inside of a node, at any depth."""
    for found in node.attribute:
        for body in (found.g, *found.graphs) if found.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) else ():
            yield body
            for inner in body.node:
                yield from _bodies(inner)


def _used_inside(body: GraphProto) -> set[str]:
    """Names that the nodes of ``body`` read, wherever those are defined."""
    return {value for node in body.node for value in node.input} | {output.name for output in body.output}
