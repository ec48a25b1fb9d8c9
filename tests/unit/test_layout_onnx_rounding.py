"""The nodes that round activations give what halve's quantizer gives, bit for bit."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from halve import schemes
from halve.onnx import parts, qdq
from halve.onnx.builder import Builder
from halve.schemes import SCHEMES, Block
from halve.schemes.quantize import dequantize, quantize

COLUMNS = 256
DYNAMIC = ("fp8_dynamic", "fp8_block", "mxfp8", "mxfp4", "w8a8")


def rounded(scheme, x, scale=None):
    """``x`` as the graph rounds it, under the static ``scale`` where the scheme has one."""
    stored = parts.parts("w.weight", (8, COLUMNS), scheme)
    builder = Builder({"x", "w.input_scale"})
    value = qdq.inputs(builder, "x", stored)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * (x.ndim - 1) + [COLUMNS])]
    constants = [] if scale is None else [numpy_helper.from_array(np.array(scale, np.float32), "w.input_scale")]
    output = helper.make_tensor_value_info(value, TensorProto.FLOAT, None)
    graph = helper.make_graph(builder.nodes, "rounding", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", parts.opset(scheme))])
    return ReferenceEvaluator(model).run(None, {"x": x})[0]


def numbers(seed=0):
    """Rows of very different size, with a row and a block of zeros, and powers of two that scale rules turn at."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(64, COLUMNS)) * np.exp2(rng.integers(-30, 30, (64, 1)))
    x[3] = 0
    x[4, 128:160] = 0
    x[5] = np.exp2(rng.integers(-8, 8, COLUMNS)) * rng.choice([1, 1.75, np.nextafter(np.float32(1.75), 0), 448 / 256])
    return x.astype(np.float32)


@pytest.mark.parametrize("name", DYNAMIC)
@pytest.mark.parametrize("seed", range(3))
def test_scales_that_the_graph_computes(name, seed):
    x, block = numbers(seed), SCHEMES[name].activation
    want = dequantize(quantize(block, x))
    np.testing.assert_array_equal(rounded(SCHEMES[name], x), want)
    batch = rounded(SCHEMES[name], x.reshape(4, 16, COLUMNS))
    np.testing.assert_array_equal(batch.reshape(x.shape), want)


def test_nvfp4_under_a_static_tensor_scale():
    """The step is scale * tensor_scale here, and scale / (1 / tensor_scale) there: one unit in the last place."""
    x = np.random.default_rng(0).normal(size=(64, COLUMNS)).astype(np.float32)
    x[3] = 0
    x[4, 16:32] = 1e-6  # under a tensor scale of this size its scale is E4M3's smallest
    scale = float(np.abs(x).max() / np.float32(2688))
    q = quantize(SCHEMES["nvfp4"].activation, x, tensor_scale=scale)
    want, found = dequantize(q), rounded(SCHEMES["nvfp4"], x, scale)
    near = np.isclose(found, want, rtol=3e-7, atol=0)
    assert near.mean() > 0.999  # the rest lies at the middle between two codes
    np.testing.assert_allclose(found, want, rtol=0, atol=np.abs(x).max() / 6)


def test_fp8_under_a_static_scale():
    x, scale = numbers(), 0.25
    element = SCHEMES["fp8_static"].activation.element_format
    plain = Block(element="fp8_e4m3", scale=None)
    codes = quantize(plain, np.clip(x / np.float32(scale), element.min, element.max))
    np.testing.assert_array_equal(rounded(SCHEMES["fp8_static"], x, scale), dequantize(codes) * np.float32(scale))


def test_a_weight_only_scheme_rounds_nothing():
    builder = Builder({"x"})
    stored = parts.parts("w.weight", (8, COLUMNS), SCHEMES["w8a16"])
    assert qdq.inputs(builder, "x", stored) == "x"
    assert not builder.nodes


def test_every_scheme_with_activations_is_tried():
    tried = {*DYNAMIC, "nvfp4", "fp8_static"}
    held = {name for name, scheme in SCHEMES.items() if scheme.activation and not parts.refusal(scheme.weight)}
    assert held == tried
    assert all(schemes.get(name).activation is not None for name in tried)
