"""Arithmetic on shapes done beforehand: what exporters write where a size could have been a number.

Only integers and only small tensors are computed, by ONNX's own reference evaluator; weights are left alone.
"""

from collections.abc import Iterable, Iterator
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

Array = NDArray[np.generic]
_LIMIT = 4096  # elements of a tensor that is about shapes
_ROUNDS = 12  # shapes that depend on computed shapes, one inside another


def folded(model: ModelProto) -> GraphProto:
    """The graph of ``model`` with shapes inferred, and as many of them as can be told without data.

    Raises onnx.shape_inference.InferenceError where shapes contradict each other.
    """
    work = ModelProto()
    work.CopyFrom(model)
    graph = onnx.shape_inference.infer_shapes(work, data_prop=True).graph
    for _ in range(_ROUNDS):
        found = dict(_computed(graph, work))
        if not found:
            break
        _replace(work.graph, found)
        graph = onnx.shape_inference.infer_shapes(work, data_prop=True).graph
    return graph


def _computed(graph: GraphProto, model: ModelProto) -> Iterator[tuple[str, Array]]:
    """Outputs of nodes that depend on nothing but shapes and small constants, and are not constants yet."""
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer if small(t.dims) and not _external(t)}
    shapes = {
        v.name: [d.dim_value if d.HasField("dim_value") else -1 for d in v.type.tensor_type.shape.dim]
        for v in (*graph.input, *graph.value_info, *graph.output)
        if v.type.tensor_type.HasField("shape")
    }
    for tensor in graph.initializer:
        shapes[tensor.name] = list(tensor.dims)
    for node in graph.node:
        if node.op_type == "Constant":
            tensor = next((a.t for a in node.attribute if a.name == "value"), None)
            if tensor is not None and small(tensor.dims) and not _external(tensor):
                values[node.output[0]] = numpy_helper.to_array(tensor)
                shapes[node.output[0]] = list(tensor.dims)
        elif (result := _value(node, values, shapes, model)) is not None:
            values[node.output[0]] = result
            yield node.output[0], result


def _external(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL


def small(dims: Iterable[int]) -> bool:
    """Whether a tensor of ``dims`` may be about shapes."""
    return prod(dims) <= _LIMIT


def _value(node: NodeProto, values: dict[str, Array], shapes: dict[str, list[int]], model: ModelProto) -> Array | None:
    """What ``node`` gives, where that is integers or truths that are known now."""
    if node.op_type == "Shape":
        sizes = shapes.get(node.input[0])
        if sizes is None or min(sizes, default=0) < 0:
            return None
        ends = {a.name: a.i for a in node.attribute}
        return np.array(sizes[ends.get("start", 0) : ends.get("end", len(sizes))], np.int64)
    inputs = [name for name in node.input if name]
    if not inputs or len(node.output) != 1 or any(name not in values for name in inputs):
        return None
    if any(attribute.HasField("g") for attribute in node.attribute):
        return None
    given = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(values[name].dtype), None)
        for name in dict.fromkeys(inputs)
    ]
    outputs = [onnx.helper.make_empty_tensor_value_info(node.output[0])]
    body = onnx.helper.make_graph([node], "fold", given, outputs)
    alone = onnx.helper.make_model(body, opset_imports=model.opset_import, ir_version=model.ir_version)
    try:
        computed: Any = ReferenceEvaluator(alone).run(None, {name: values[name] for name in inputs})
    except Exception:  # noqa: BLE001 - what the evaluator cannot do (it has faults of its own) stays unknown
        return None
    result = np.asarray(computed[0])
    return result if result.size <= _LIMIT else None


def _replace(graph: GraphProto, found: dict[str, Array]) -> None:
    """Put constants where ``found`` was computed."""
    nodes = [node for node in graph.node if node.output[0] not in found]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in found.items())
