"""ONNX models of others as a source: which weights are found, and that the quantized graph computes what they say."""

from contextlib import closing

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from halve import layouts
from halve.checkpoint.base import read_array
from halve.checkpoint.onnx_source import holds_model, only_layout, open_onnx, remarks
from halve.errors import CheckpointError, HalveError, UnsupportedError
from halve.pipeline.making import make_plan
from halve.pipeline.quantize import quantize
from halve.schemes import SCHEMES
from halve.schemes.quantize import dequantize
from tiny import llama, onnx_models

LAYOUT = layouts.get("onnx-qdq")
WEIGHT_ONLY = [
    name for name, s in SCHEMES.items() if not (LAYOUT.supports(s).refused or s.dense or s.activation is not None)
]
X = onnx_models.random(5, onnx_models.WIDTH, seed=9)


def quantized(path, out, scheme, **more):
    """Quantize the model at ``path``; the folder."""
    with closing(open_onnx(path)) as checkpoint:
        quantize(checkpoint, out, scheme, layout="onnx-qdq", **more)
    return out


def evaluated(model, x=X):
    (y,) = ReferenceEvaluator(model if isinstance(model, ModelProto) else str(model)).run(None, {"x": x})
    return y


def replaced(model, path, folder):
    """``model`` with the weights that ``folder`` holds, dequantized."""
    copy = ModelProto()
    copy.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
    tensors |= {node.output[0]: node.attribute[0].t for node in copy.graph.node if node.op_type == "Constant"}
    with closing(open_onnx(path)) as origin, closing(open_onnx(folder)) as checkpoint:
        stored = LAYOUT.open(checkpoint)
        for name, weight in stored.items():
            linear = origin.graph.linears[name]
            values = dequantize(LAYOUT.read(checkpoint, weight, 0, weight.shape[0]))
            values = (values.T if linear.transposed else values).astype(read_array(origin, name).dtype)
            tensors[linear.value].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), linear.value))
    return copy, stored


@pytest.mark.parametrize("external", [False, True])
def test_every_form_of_a_weight_is_presented_as_out_in(tmp_path, external):
    model = onnx_models.every_form()
    with closing(open_onnx(onnx_models.save(tmp_path / "m.onnx", model, external=external))) as checkpoint:
        tensors = checkpoint.tensors
        assert {name: tensors[name].shape for name in onnx_models.WEIGHTS} == onnx_models.WEIGHTS
        others = {"first.bias", "table.weight.constant"} | ({"gemm.bias", "three"} if external else set())
        assert set(tensors) == {*onnx_models.WEIGHTS, *others}
        values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        values["third"] = onnx_models.random(128, 96, seed=sum(b"third"))
        for name, value in (
            ("first.weight", values["first"].T),
            ("enc.fc2.weight", values["onnx::Linear_7"]),
            ("third.weight", values["third"].T),
            ("gemm.weight", values["gemm.weight"]),
            ("table.weight.constant", values["table.weight"]),
        ):
            np.testing.assert_array_equal(read_array(checkpoint, name), value)
            np.testing.assert_array_equal(read_array(checkpoint, name, 7, 21), value[7:21])
            assert checkpoint.stored(name) == ("F32", value.nbytes)
            checkpoint.release(name)
        assert checkpoint.quantization is None
        assert checkpoint.config == {}
        assert remarks(checkpoint) == ()
        assert only_layout(checkpoint) == "onnx-qdq"
        assert [path.name for path in checkpoint.files] == ["m.onnx"] + ["data.bin"] * external


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("scheme", WEIGHT_ONLY)
def test_the_quantized_graph_computes_with_the_weights_it_holds(tmp_path, scheme, dtype):
    model = onnx_models.every_form(dtype)
    path = onnx_models.save(tmp_path / "m.onnx", model, external=dtype is np.float16)
    folder = quantized(path, tmp_path / "out", scheme)
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    wanted, stored = replaced(model, path, folder)
    assert {name: weight.shape for name, weight in stored.items()} == onnx_models.WEIGHTS
    assert {weight.scheme.name for weight in stored.values()} == {scheme}
    x = X.astype(dtype)
    found = evaluated(folder / "model.onnx", x)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, evaluated(wanted, x), rtol=1e-2 if dtype is np.float16 else 1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("scheme", ["w8a8", "fp8_dynamic", "mxfp8", "mxfp4"])
def test_activations_are_rounded_in_front_of_every_product(tmp_path, scheme, dtype):
    path = onnx_models.save(tmp_path / "m.onnx", onnx_models.every_form(dtype))
    folder = quantized(path, tmp_path / "out", scheme)
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    with closing(open_onnx(folder)) as checkpoint:
        assert {weight.scheme.name for weight in LAYOUT.open(checkpoint).values()} == {scheme}
    nodes = onnx.load(folder / "model.onnx", load_external_data=False).graph.node
    assert sum(node.op_type == "QuantizeLinear" for node in nodes) == 5  # one weight has two products
    exact = evaluated(onnx_models.every_form(dtype), X.astype(dtype)).astype(np.float32)
    found = evaluated(folder / "model.onnx", X.astype(dtype)).astype(np.float32)
    assert np.linalg.norm(found - exact) < 0.5 * np.linalg.norm(exact)


@pytest.mark.parametrize(
    ("scheme", "opset", "raised"),
    [("w8a16", 13, 13), ("w8a16", 11, 13), ("fp8", 13, 19), ("w4a16", 13, 21), ("w4a16", 22, 22), ("mxfp8a16", 17, 24)],
)
def test_the_opset_is_raised_only_as_far_as_types_need(tmp_path, scheme, opset, raised):
    path = onnx_models.save(tmp_path / "m.onnx", onnx_models.every_form(opset=opset))
    folder = quantized(path, tmp_path / "out", scheme)
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", raised)]
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)


def test_operators_that_cannot_be_raised(tmp_path):
    """BatchNormalization has lost its attribute ``spatial``."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("BatchNormalization", ["h", "a", "b", "c", "d"], ["y"], spatial=0),
    ]
    ones = [numpy_helper.from_array(np.ones(32, np.float32), name) for name in "abcd"]
    weight = numpy_helper.from_array(onnx_models.random(64, 32), "w")
    model = onnx_models.model(nodes, [weight, *ones], opset=7)
    path = onnx_models.save(tmp_path / "m.onnx", model)
    says = "opset 7, and its operators cannot be raised to 21: Attribute spatial must have value 1"
    with pytest.raises(UnsupportedError, match=says) as raised:
        quantized(path, tmp_path / "out", "int4_g32")
    assert "export it again with opset 21" in raised.value.hint
    assert not (tmp_path / "out").exists()


def test_what_is_kept_keeps_its_bytes_and_small_constants_stay_inside(tmp_path):
    path = onnx_models.save(tmp_path / "m.onnx", onnx_models.every_form())
    folder = quantized(path, tmp_path / "out", "w4a16", ignore=["enc.fc2", "first"])
    with closing(open_onnx(path)) as origin, closing(open_onnx(folder)) as checkpoint:
        assert set(LAYOUT.open(checkpoint)) == {"third.weight", "gemm.weight"}
        for name in ("first.weight", "enc.fc2.weight", "first.bias", "table.weight.constant"):
            assert checkpoint.tensors[name] == origin.tensors[name]
            np.testing.assert_array_equal(read_array(checkpoint, name), read_array(origin, name))
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    inside = {t.name for t in model.graph.initializer if t.data_location != TensorProto.EXTERNAL}
    assert inside == {"gemm.bias", "three"}


def test_sizes_are_known_beforehand(tmp_path):
    path = onnx_models.save(tmp_path / "m.onnx", onnx_models.every_form())
    with closing(open_onnx(path)) as checkpoint:
        plan = make_plan(checkpoint, "nvfp4a16", layout="onnx-qdq")
    folder = quantized(path, tmp_path / "out", "nvfp4a16")
    assert plan.file_bytes() == sum(file.stat().st_size for file in folder.glob("model.onnx*"))
    assert not (folder / "config.json").exists()


def test_a_folder_keeps_its_config_and_tokenizer(tmp_path):
    (tmp_path / "in").mkdir()
    onnx_models.save(tmp_path / "in" / "model.onnx", onnx_models.every_form())
    (tmp_path / "in" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "in" / "tokenizer.json").write_text("{}")
    assert holds_model(tmp_path / "in")
    folder = quantized(tmp_path / "in", tmp_path / "out", "w8a16")
    assert (folder / "tokenizer.json").read_text() == "{}"
    assert '"bert"' in (folder / "config.json").read_text()
    (tmp_path / "in" / "model.safetensors").touch()
    assert not holds_model(tmp_path / "in")


def test_a_cast_is_refused(tmp_path):
    path = onnx_models.save(tmp_path / "m.onnx", onnx_models.every_form())
    with pytest.raises(UnsupportedError, match="is not cast to fp16"):
        quantized(path, tmp_path / "out", "fp16")


def test_a_quantized_model_is_no_source(tmp_path):
    path = onnx_models.save(tmp_path / "m.onnx", onnx_models.every_form())
    folder = quantized(path, tmp_path / "out", "w8a16")
    with pytest.raises(UnsupportedError, match="is already quantized"):
        quantized(folder, tmp_path / "again", "fp8")


def test_old_models_list_weights_among_their_inputs(tmp_path):
    model = onnx_models.one_weight(32, 64, opset=8)
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [64, 32]))
    folder = quantized(onnx_models.save(tmp_path / "m.onnx", model), tmp_path / "out", "w8a16")
    written = onnx.load(folder / "model.onnx", load_external_data=False)
    assert [value.name for value in written.graph.input] == ["x"]
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)


WIDE = onnx_models.random(64, 64)


def weights(*names):
    return [numpy_helper.from_array(WIDE, name) for name in names]


def conditional():
    """An If whose branches multiply with an initializer of the main graph."""
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    always = numpy_helper.from_array(np.array(True), "always")
    nodes = [
        helper.make_node("If", ["always"], ["z"], then_branch=branch, else_branch=branch),
        helper.make_node("MatMul", ["z", "w"], ["y"]),
    ]
    return onnx_models.model(nodes, [*weights("w"), always])


def function():
    """A model with a function of its own that multiplies."""
    sets = [helper.make_opsetid("", 21)]
    made = helper.make_function(
        "own", "Linear", ["a", "b"], ["c"], [helper.make_node("MatMul", ["a", "b"], ["c"])], sets
    )
    node = helper.make_node("Linear", ["x", "w"], ["y"], domain="own")
    return onnx_models.model([node], weights("w"), functions=[made])


def both_ways():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Gemm", ["h", "w"], ["y"], transB=1),
    ]
    return onnx_models.model(nodes, weights("w"))


def looked_up():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Gather", ["w", "one"], ["row"]),
        helper.make_node("Add", ["h", "row"], ["y"]),
    ]
    return onnx_models.model(nodes, [*weights("w"), numpy_helper.from_array(np.array([1]), "one")])


def on_the_left():
    nodes = [helper.make_node("MatMul", ["w", "x"], ["y"], name="left")]
    return onnx_models.model(nodes, weights("w"))


def stacked():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="stack")]
    return onnx_models.model(nodes, [numpy_helper.from_array(WIDE[None], "w")])


def handed_out():
    model = onnx_models.model([helper.make_node("MatMul", ["x", "w"], ["y"])], weights("w"))
    model.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [64, 64]))
    return model


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (
            conditional,
            ["2 MatMul or Gemm inside of If, Loop or Scan", "w: nodes inside of If, Loop or Scan use it too"],
        ),
        (function, ["1 MatMul or Gemm inside of the model's own functions"]),
        (both_ways, ["w: some products use it as [in, out] and others as [out, in]"]),
        (looked_up, ["w: Gather uses it too"]),
        (on_the_left, ["left: its constant operand is the left one"]),
        (stacked, ["stack: its constant operand has 3 dimensions"]),
        (handed_out, ["w: it is an output of the model"]),
    ],
)
def test_what_is_left_alone_and_why(tmp_path, build, says):
    path = onnx_models.save(tmp_path / "m.onnx", build())
    with closing(open_onnx(path)) as checkpoint:
        assert remarks(checkpoint) == tuple(f"left alone: {why}" for why in says)
        assert checkpoint.graph.linears == {}
    with pytest.raises(HalveError, match="no tensor is left to quantize"):
        quantized(path, tmp_path / "out", "w8a16")


def test_a_graph_with_a_part_that_is_left_alone_still_computes(tmp_path):
    """The weight that a branch captures stays as it is, beside one that is quantized."""
    model = conditional()
    model.graph.node[1].output[0] = "h"
    model.graph.node.append(helper.make_node("MatMul", ["h", "v"], ["y"]))
    model.graph.initializer.extend(weights("v"))
    path = onnx_models.save(tmp_path / "m.onnx", model)
    folder = quantized(path, tmp_path / "out", "w8a16")
    wanted, stored = replaced(model, path, folder)
    assert set(stored) == {"v.weight"}
    np.testing.assert_allclose(evaluated(folder / "model.onnx"), evaluated(wanted), rtol=1e-4, atol=1e-6)


def test_a_gemm_whose_tokens_are_columns(tmp_path):
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], transA=1, name="turned")]
    path = onnx_models.save(tmp_path / "m.onnx", onnx_models.model(nodes, weights("w")))
    with pytest.raises(UnsupportedError, match="turned: a Gemm with a transposed left operand"):
        quantized(path, tmp_path / "out", "w8a8")
    folder = quantized(path, tmp_path / "out", "w8a16")
    wanted, _ = replaced(onnx_models.model(nodes, weights("w")), path, folder)
    x = onnx_models.random(64, 64, seed=3)
    np.testing.assert_allclose(evaluated(folder / "model.onnx", x), evaluated(wanted, x), rtol=1e-4, atol=1e-6)


def test_names_that_would_collide(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "w.weight"], ["g"]),
        helper.make_node("MatMul", ["g", "onnx::MatMul_3"], ["z"], name="/w/MatMul"),
        helper.make_node("MatMul", ["z", "onnx::MatMul_4"], ["y"]),
    ]
    model = onnx_models.model(nodes, weights("w", "w.weight", "onnx::MatMul_3", "onnx::MatMul_4"))
    path = onnx_models.save(tmp_path / "m.onnx", model)
    with closing(open_onnx(path)) as checkpoint:
        names = set(checkpoint.tensors)
    assert len(names) == 4
    assert "w.weight" in names
    folder = quantized(path, tmp_path / "out", "w8a16")
    wanted, stored = replaced(model, path, folder)
    assert set(stored) == names
    np.testing.assert_allclose(evaluated(folder / "model.onnx"), evaluated(wanted), rtol=1e-4, atol=1e-6)


def test_embeddings_are_embeddings_to_a_recipe(tmp_path):
    nodes = [
        helper.make_node("Gather", ["bert.embeddings.word_embeddings.weight", "one"], ["row"]),
        helper.make_node("Add", ["x", "row"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    constants = [*weights("bert.embeddings.word_embeddings.weight", "w"), numpy_helper.from_array(np.array([1]), "one")]
    path = onnx_models.save(tmp_path / "m.onnx", onnx_models.model(nodes, constants))
    with closing(open_onnx(path)) as checkpoint:
        plan = make_plan(checkpoint, "w8a16", layout="onnx-qdq")
    assert {t.source.name: t.why for t in plan.tensors} == {
        "bert.embeddings.word_embeddings.weight": "embedding",
        "w.weight": "",
    }


def test_a_graph_of_halves_own_is_a_checkpoint_like_others(tmp_path):
    folder = llama.write(tmp_path / "source")
    quantize(folder, tmp_path / "out", "w8a16", layout="onnx-qdq")
    with closing(open_onnx(tmp_path / "out")) as checkpoint:
        assert checkpoint.own
        assert only_layout(checkpoint) is None
        assert remarks(checkpoint) == ()
        assert set(checkpoint.auxiliary()) == {"tokenizer.json"}
        assert checkpoint.config == llama.config()


def qdq(kind, scale, zero=None, *, opset=21, rows=64, **attributes):
    """A model that another tool has quantized: DequantizeLinear of codes [64, rows] in front of MatMul."""
    bits = {TensorProto.INT4: 4, TensorProto.INT32: 32}.get(kind, 8)
    codes = helper.make_tensor("c", kind, [64, rows], bytes(-(-64 * rows * bits // 8)), raw=True)
    constants = [codes, numpy_helper.from_array(np.asarray(scale, np.float32), "s")]
    names = ["c", "s"]
    if zero is not None:
        constants.append(helper.make_tensor("z", kind, np.shape(zero), np.asarray(zero).tobytes(), raw=True))
        names.append("z")
    nodes = [
        helper.make_node("DequantizeLinear", names, ["w"], **attributes),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    return onnx_models.model(nodes, constants, opset=opset)


@pytest.mark.parametrize(
    ("model", "scheme"),
    [
        (qdq(TensorProto.INT8, np.ones(64), axis=1), "w8a16"),
        (qdq(TensorProto.INT8, np.ones(64), np.zeros(64, np.int8), axis=1), "w8a16"),
        (qdq(TensorProto.INT8, np.ones(64), axis=-1), "w8a16"),
        (qdq(TensorProto.INT8, np.float32(1)), ""),
        (qdq(TensorProto.UINT8, np.float32(1), np.uint8(128)), ""),
        (qdq(TensorProto.INT4, np.ones((2, 64)), axis=0, block_size=32), "w4a16"),
    ],
)
def test_graphs_that_others_quantized_are_read(tmp_path, model, scheme):
    with closing(open_onnx(onnx_models.save(tmp_path / "m.onnx", model))) as checkpoint:
        assert checkpoint.quantization == {"quant_method": "onnx-qdq"}
        (stored,) = LAYOUT.open(checkpoint).values()
        assert (stored.name, stored.shape, stored.scheme.name) == ("w.weight", (64, 64), scheme)
        q = LAYOUT.read(checkpoint, stored, 0, 64)
    zero = 128 if stored.block.zero_point else 0
    np.testing.assert_array_equal(dequantize(q), np.full((64, 64), -zero, np.float32))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (qdq(TensorProto.INT8, np.ones(64), np.ones(64, np.int8), axis=1), "z holds signed zero points"),
        (qdq(TensorProto.INT8, np.ones(64), axis=0), "a scale an input"),
        (qdq(TensorProto.INT8, np.ones((64, 2)), axis=1, block_size=32), "blocks run along the outputs"),
        (qdq(TensorProto.INT4, np.ones((3, 64)), axis=0, block_size=32), r"s has shape \[3, 64\]"),
        (qdq(TensorProto.INT8, np.ones(64), axis=7), "axis or block_size is none"),
        (qdq(TensorProto.INT8, np.ones((2, 64)), axis=0, block_size=-32), "axis or block_size is none"),
        (qdq(TensorProto.INT8, np.ones((2, 64)), axis=0, block_size=24), "not a multiple of the block size 24"),
        (qdq(TensorProto.INT32, np.float32(1)), "INT32, which is not dequantized"),
        (qdq(TensorProto.INT4, np.ones(63), axis=1, rows=63), "rows of c do not end on a byte"),
    ],
)
def test_graphs_of_others_that_no_scheme_is(tmp_path, model, says):
    with (
        closing(open_onnx(onnx_models.save(tmp_path / "m.onnx", model))) as checkpoint,
        pytest.raises(CheckpointError, match=says) as raised,
    ):
        LAYOUT.open(checkpoint)
    assert "w.weight" in str(raised.value)
    assert raised.value.hint
