"""A float ONNX model made ready to be quantized: checked, constants in initializers, batch norms and scales folded."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from halve.checkpoint.onnx_file import OnnxFile, opset
from halve.checkpoint.place import sha256
from halve.errors import CheckpointError, FormatError, UnsupportedError
from halve.onnx.rewrite import raised

_OPSETS = (19, 13)  # the oldest DequantizeLinear of onnx's reference evaluator; the first with scales for channels
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_PLAIN = ("", "ai.onnx", "ai.onnx.ml")
_QUANTIZED = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
)
Array = NDArray[np.generic]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Input:
    """An input of the model: dimensions that are not fixed are None."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[np.generic]


class FloatModel:
    """``proto`` has at least operator set 13. ``source`` is the SHA-256 of the file it was made from."""

    def __init__(self, proto: ModelProto, path: Path, source: str) -> None:
        self.proto, self.path, self.source = proto, path, source
        graph = proto.graph
        self.constants: dict[str, Array] = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        self.producers = {name: node for node in graph.node for name in node.output}
        self.users: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.inputs = tuple(_inputs(graph, self.constants))
        self.outputs = tuple(one.name for one in graph.output)

    @cached_property
    def types(self) -> Mapping[str, np.dtype[np.generic]]:
        """The types of activations, as far as they can be inferred."""
        return dict(_types(self.proto))

    @property
    def nodes(self) -> tuple[NodeProto, ...]:
        """In the order in which they are computed."""
        return tuple(self.proto.graph.node)

    def weight_of(self, node: NodeProto) -> str | None:
        """The constant that a product multiplies with; None for products of two activations."""
        name = node.input[1] if node.op_type in PRODUCTS else ""
        return name if name in self.constants else None


def load(path: Path) -> FloatModel:
    """The model at ``path``.

    Raises CheckpointError for a file that is damaged or whose external data is missing, UnsupportedError for a model
    that is quantized already, has operators of its own, branches or loops, or a newer operator set than the libraries
    know; FormatError for weights that are NaN or infinite.
    """
    opened = OnnxFile(path)
    opened.close()
    proto = onnx.load(str(path))
    _check(proto, path)
    proto = _raised(proto)
    for node in proto.graph.node:
        if node.op_type in PRODUCTS and not node.name:
            node.name = node.output[0]
    prepared = _folded(proto, path)
    model = FloatModel(prepared, path, sha256(path, path.stat().st_size))
    for node in model.nodes:
        for name in node.input[1:] if node.op_type in PRODUCTS else ():
            if name in model.constants and not np.isfinite(model.constants[name]).all():
                raise FormatError(f"{path}: {name} holds NaN or Inf", hint="export the model again; it is damaged")
    return model


def _check(proto: ModelProto, path: Path) -> None:
    known = onnx.defs.onnx_opset_version()
    if opset(proto) > known:
        raise UnsupportedError(
            f"{path}: operator set {opset(proto)} is newer than the {known} of onnx {onnx.__version__}",
            hint="pip install --upgrade onnx onnxruntime, or export with an older operator set",
        )
    operators = Counter((node.domain, node.op_type) for node in proto.graph.node)
    for domain, operator in operators:
        if operator in _QUANTIZED:
            raise UnsupportedError(
                f"{path}: {operator} is in it: the model is quantized already", hint="start from the float model"
            )
        if domain not in _PLAIN:
            raise UnsupportedError(
                f"{path}: {operator} of {domain} is no ONNX operator", hint="export it in plain ONNX operators"
            )
    inside = next((node for node in proto.graph.node if any(a.HasField("g") for a in node.attribute)), None)
    if inside is not None:
        raise UnsupportedError(
            f"{path}: {inside.op_type} {inside.name or inside.output[0]} chooses between graphs while it runs",
            hint="export one branch alone: fix what it depends on, such as the sampling rate",
        )


def _raised(proto: ModelProto) -> ModelProto:
    """``proto`` in the first of ``_OPSETS`` that its operators can be raised to. Raises UnsupportedError."""
    newer, older = _OPSETS
    try:
        return raised(proto, newer)
    except UnsupportedError:
        return raised(proto, older)


def _folded(proto: ModelProto, path: Path) -> ModelProto:
    """``proto`` as ONNX Runtime simplifies it: constants folded, BatchNormalization, Mul and Add in convolutions."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    domains = {one.domain for one in proto.opset_import}
    with tempfile.TemporaryDirectory(prefix="halve-edge-") as scratch:
        written = Path(scratch) / "model.onnx"
        options.optimized_model_filepath = str(written)
        try:
            onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - the library's own exceptions share no class
            raise CheckpointError(
                f"{path}: ONNX Runtime does not load it: {error}", hint="export the model again, and check it there"
            ) from None
        simple = onnx.load(str(written))
    del simple.graph.value_info[:]  # constants are about to change their shapes
    kept = [one for one in simple.opset_import if one.domain in domains or not one.domain]
    del simple.opset_import[:]
    simple.opset_import.extend(kept)
    return simple


def _inputs(graph: GraphProto, constants: dict[str, Array]) -> Iterator[Input]:
    for value in graph.input:
        if value.name in constants:
            continue
        tensor = value.type.tensor_type
        sizes = [one.dim_value if one.HasField("dim_value") and one.dim_value > 0 else None for one in tensor.shape.dim]
        yield Input(value.name, tuple(sizes), np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)))


def _types(proto: ModelProto) -> Iterator[tuple[str, np.dtype[np.generic]]]:
    """The types of activations, as far as they can be inferred."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        code = value.type.tensor_type.elem_type
        if code:
            yield value.name, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code))
