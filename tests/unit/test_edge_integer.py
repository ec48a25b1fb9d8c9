"""Our integers are those of ONNX Runtime, bit for bit; multiplications are counted as they are defined."""

from pathlib import Path

import numpy as np
import pytest

ort = pytest.importorskip("onnxruntime", reason="the extra edge has it")
onnx = pytest.importorskip("onnx", reason="the extra edge has it")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from halve.edge.affine import Range  # noqa: E402
from halve.edge.integer import integer_products  # noqa: E402
from halve.edge.macs import products  # noqa: E402
from halve.edge.model import load  # noqa: E402
from halve.edge.qdq import Integers, nearest, quantized  # noqa: E402
from halve.edge.running import Session  # noqa: E402

# Without VNNI ONNX Runtime's x86 kernels add products of 8 by 8 bits in pairs in INT16, which holds those of 7 bits
CPU = Path("/proc/cpuinfo")
EXACT = CPU.exists() and not {"avx512_vnni", "avx_vnni"}.isdisjoint(CPU.read_text().split())
LIMIT = 127 if EXACT else 63

CASES = {
    "conv": ("Conv", (1, 6, 9, 11), (8, 6, 3, 3), {"pads": [1, 1, 1, 1]}),
    "conv strided": ("Conv", (2, 6, 9, 11), (8, 6, 3, 3), {"strides": [2, 2], "pads": [0, 1, 2, 1]}),
    "conv dilated": ("Conv", (1, 4, 12, 12), (8, 4, 3, 3), {"dilations": [2, 2]}),
    "conv same": ("Conv", (1, 4, 9, 9), (8, 4, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "conv grouped": ("Conv", (1, 8, 7, 7), (12, 4, 3, 3), {"group": 2}),
    "conv depthwise": ("Conv", (1, 16, 9, 9), (16, 1, 5, 5), {"group": 16, "pads": [2, 2, 2, 2]}),
    "conv pointwise": ("Conv", (1, 64, 5, 5), (16, 64, 1, 1), {}),
    "conv of a line": ("Conv", (1, 4, 31), (8, 4, 5), {"pads": [2, 2]}),
    "gemm": ("Gemm", (3, 70), (70, 9), {}),
    "gemm transposed": ("Gemm", (3, 70), (9, 70), {"transB": 1}),
    "matmul": ("MatMul", (2, 5, 70), (70, 9), {}),
}
MACS = {
    "conv": 8 * 9 * 11 * 6 * 9,
    "conv strided": 2 * 8 * 5 * 6 * 6 * 9,
    "conv dilated": 8 * 8 * 8 * 4 * 9,
    "conv same": 8 * 5 * 5 * 4 * 9,
    "conv grouped": 12 * 5 * 5 * 4 * 9,
    "conv depthwise": 16 * 9 * 9 * 25,
    "conv pointwise": 16 * 25 * 64,
    "conv of a line": 8 * 31 * 4 * 5,
    "gemm": 3 * 70 * 9,
    "gemm transposed": 3 * 70 * 9,
    "matmul": 10 * 70 * 9,
}


def model(path, case, *, relu):
    operator, shape, dims, attributes = CASES[case]
    rng = np.random.default_rng(0)
    weight = rng.normal(size=dims) * np.exp(rng.normal(size=dims[-1:]))
    channels = dims[0] if operator == "Conv" or attributes.get("transB") else dims[-1]
    constants = {"w": weight, **({} if operator == "MatMul" else {"b": rng.normal(size=channels)})}
    nodes = [
        helper.make_node(operator, ["x", *[name for name in "wb" if name in constants]], ["p"], **attributes),
        *([helper.make_node("Relu", ["p"], ["r"])] if relu else []),
        helper.make_node("Mul", ["r" if relu else "p", "q"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("q", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10), str(path))
    return load(path), shape


def fused(proto, folder):
    """The operator that ONNX Runtime makes of the product: its comparison is one of integers."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = {node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}
    (found,) = operators & {"QLinearConv", "QGemm", "QLinearMatMul", "Conv", "Gemm", "MatMul"}
    return found


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_bit_for_bit(tmp_path, case, relu):
    made, shape = model(tmp_path / "net.onnx", case, relu=relu)
    rng = np.random.default_rng(1)
    x = (rng.normal(size=shape) + 0.3).astype(np.float32)
    name = "r" if relu else "p"
    out = Session(made.proto, [name]).run({"x": x, "q": np.ones(1, np.float32)}, [name])[0]
    node = next(node for node in made.nodes if node.output[0] == "p")
    ranges = {"x": Range(x.min() * 0.9, x.max() * 0.9), name: Range(out.min() * 0.8, out.max() * 0.8)}
    biases = {"b": made.constants["b"]} if "b" in made.constants else {}
    proto = quantized(made, Integers(ranges, {"w": nearest(made, node, LIMIT)}, biases))
    (product,) = integer_products(proto)
    assert fused(proto, tmp_path) == {"Conv": "QLinearConv", "Gemm": "QGemm", "MatMul": "QLinearMatMul"}[CASES[case][0]]
    codes = [product.source.codes, product.target.codes]
    fed, expected = Session(proto, codes).run({"x": x, "q": np.ones(1, np.float32)}, codes)
    found = product.run(fed)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint8
    assert {0, 255} <= set(found.ravel().tolist())
    assert len(np.unique(found)) > 10


@pytest.mark.parametrize("case", CASES)
def test_multiplications(tmp_path, case):
    made, shape = model(tmp_path / "net.onnx", case, relu=False)
    (found,) = products(made, {"x": np.zeros(shape, np.float32), "q": np.ones(1, np.float32)})
    assert (found.macs, found.operands) == (MACS[case], ("x",))
