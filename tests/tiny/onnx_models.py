"""Small ONNX models that hold their weights in every way that exporters do."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 64
WEIGHTS = {  # the weights of `every_form` as halve calls them: [out, in]
    "first.weight": (256, 64),  # MatMul
    "enc.fc2.weight": (128, 256),  # Transpose, MatMul; anonymous
    "third.weight": (96, 128),  # MatMul, in a Constant
    "gemm.weight": (64, 96),  # Gemm with transB
}


def random(*shape, dtype=np.float32, seed=0):
    """Numbers about 0.1 large."""
    return (np.random.default_rng((seed, *shape)).normal(size=shape) * 0.1).astype(dtype)


def every_form(dtype=np.float32, opset=21):
    """x [n, 64] -> y [n, 256] by linear layers whose weights are held in different ways, one of them used twice."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def tensor(name, *shape):
        return numpy_helper.from_array(random(*shape, dtype=dtype, seed=sum(name.encode())), name)

    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["h1"]),
        helper.make_node("Add", ["h1", "first.bias"], ["h2"]),
        helper.make_node("Relu", ["h2"], ["h3"]),
        helper.make_node("Transpose", ["onnx::Linear_7"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["h3", "turned"], ["h4"], name="/enc/fc2/MatMul"),
        helper.make_node("Constant", [], ["third"], value=tensor("third", 128, 96)),
        helper.make_node("MatMul", ["h4", "third"], ["h5"]),
        helper.make_node("Gemm", ["h5", "gemm.weight", "gemm.bias"], ["h6"], transB=1, alpha=0.5),
        helper.make_node("MatMul", ["h6", "first"], ["h7"]),
        helper.make_node("Gather", ["table.weight", "three"], ["row"], axis=0),
        helper.make_node("Add", ["h7", "row"], ["y"]),
    ]
    initializers = [
        tensor("first", 64, 256),
        tensor("first.bias", 256),
        tensor("onnx::Linear_7", 128, 256),
        tensor("gemm.weight", 64, 96),
        tensor("gemm.bias", 64),
        tensor("table.weight", 300, 256),
        numpy_helper.from_array(np.array([3]), "three"),
    ]
    return model(nodes, initializers, opset=opset, kind=kind, width=WIDTH, out=256)


def one_weight(rows, columns, *, dtype=np.float32, opset=21, seed=0):
    """x [n, columns] -> y [n, rows] by one MatMul with the initializer ``w`` [columns, rows]."""
    weight = numpy_helper.from_array(random(columns, rows, dtype=dtype, seed=seed), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return model([node], [weight], opset=opset, kind=kind, width=columns, out=rows)


def model(nodes, initializers, *, opset=21, kind=TensorProto.FLOAT, width=WIDTH, out=None, functions=(), inputs=()):
    """A model from x [n, width] to y [n, out]."""
    x = helper.make_tensor_value_info("x", kind, ["n", width])
    y = helper.make_tensor_value_info("y", kind, ["n", out])
    graph = helper.make_graph(nodes, "test", [x, *inputs], [y], initializers)
    sets = [helper.make_opsetid("", opset), *(helper.make_opsetid(f.domain, 1) for f in functions)]
    version = helper.find_min_ir_version_for(sets[:1])
    return helper.make_model(graph, opset_imports=sets, ir_version=version, functions=list(functions))


def save(path, built, *, external=False):
    """Write a model; ``external`` puts its initializers into a file beside. Returns the path."""
    copy = onnx.ModelProto()
    copy.CopyFrom(built)
    data = {"save_as_external_data": True, "location": "data.bin", "size_threshold": 0} if external else {}
    onnx.save(copy, path, **data)
    return path
