"""ONNX models in integers: the same function before rounding, close after it, and nothing lost on bad input."""

import json

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the extra edge has it")
onnx = pytest.importorskip("onnx", reason="the extra edge has it")

from click.testing import CliRunner  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from PIL import Image  # noqa: E402

from halve.cli.edge import command  # noqa: E402
from halve.edge import ptq  # noqa: E402
from halve.edge.affine import Range  # noqa: E402
from halve.edge.calibrators import CALIBRATORS, Seen  # noqa: E402
from halve.edge.equalize import columns, equalizable, equalized, factors  # noqa: E402
from halve.edge.model import load  # noqa: E402
from halve.edge.moments import Moments, Operand  # noqa: E402
from halve.edge.qdq import nearest, quantized  # noqa: E402
from halve.edge.quantize import quantize  # noqa: E402
from halve.edge.running import Session, compared  # noqa: E402
from halve.edge.samples import Picture, read  # noqa: E402
from halve.edge.stored import stored  # noqa: E402
from halve.errors import CheckpointError, FormatError, OutputError, UnknownNameError, UnsupportedError  # noqa: E402

SIZE = 12


def net(path, *, change=lambda graph: None, opset=13, softmax=True):
    """Conv - HardSwish written out - depthwise Conv - ReLU - Conv + residual - pool - Gemm - Softmax."""
    rng = np.random.default_rng(0)
    constants = {
        "w1": rng.normal(size=(8, 3, 3, 3)) * np.exp(rng.normal(size=(8, 1, 1, 1))),
        "b1": rng.normal(size=8) * 0.1,
        "w2": rng.normal(size=(8, 1, 3, 3)) * np.exp(rng.normal(size=(8, 1, 1, 1))),
        "b2": rng.normal(size=8) * 0.1,
        "w3": rng.normal(size=(8, 8, 1, 1)) * 0.3,
        "b3": rng.normal(size=8) * 0.1,
        "w4": rng.normal(size=(8, 5)) * 0.3,
        "b4": rng.normal(size=5) * 0.1,
        "three": 3.0,
        "zero": 0.0,
        "six": 6.0,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Add", ["c1", "three"], ["a1"]),
        helper.make_node("Clip", ["a1", "zero", "six"], ["k1"]),
        helper.make_node("Mul", ["c1", "k1"], ["m1"]),
        helper.make_node("Div", ["m1", "six"], ["h1"]),
        helper.make_node("Conv", ["h1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1], group=8),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["c3"]),
        helper.make_node("Add", ["c3", "c1"], ["s3"]),
        helper.make_node("GlobalAveragePool", ["s3"], ["p4"]),
        helper.make_node("Flatten", ["p4"], ["f4"]),
        helper.make_node("Gemm", ["f4", "w4", "b4"], ["logits" if softmax else "y"]),
        *([helper.make_node("Softmax", ["logits"], ["y"], axis=-1)] if softmax else []),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    change(graph)
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path))
    return path


def inputs(seed, count=16):
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(1, 3, SIZE, SIZE)).astype(np.float32)} for _ in range(count)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edge")
    np.savez(folder / "inputs.npz", x=np.concatenate([one["x"] for one in inputs(1, 24)]))
    return net(folder / "net.onnx"), folder / "inputs.npz"


def test_what_is_stored(made):
    model = load(made[0])
    assert stored(model) == ("x", "c1", "h1", "r2", "c3", "s3", "f4")
    assert ptq.judged(model) == ("logits",)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_equalizing_changes_no_output(made, strength):
    model = load(made[0])
    names = equalizable(model, stored(model))
    assert names == {"h1": True, "r2": False}
    rng = np.random.default_rng(0)
    low, high = -rng.random(8).astype(np.float32), np.exp(rng.normal(size=8)).astype(np.float32)
    by = {name: factors(low, high, columns(model, name), strength) for name in names}
    other = equalized(model, by)
    exact = [Session(model.proto).run(one, model.outputs) for one in inputs(2)]
    assert compared(exact, [Session(other.proto).run(one, model.outputs) for one in inputs(2)]) > 110
    before, after = (Session(one.proto, ["h1"]).run(inputs(2)[0], ["h1"])[0] for one in (model, other))
    np.testing.assert_allclose(after * by["h1"].reshape(-1, 1, 1), before, rtol=1e-4, atol=1e-5)


def test_integers_are_close(made, tmp_path):
    found = {
        kind: quantize(made[0], tmp_path / f"{kind}.onnx", made[1], activations=kind) for kind in ("int8", "int16")
    }
    assert found["int8"].calibrated.sqnr > 25
    assert found["int16"].calibrated.sqnr > found["int8"].calibrated.sqnr
    exact = [Session(load(made[0]).proto).run(one, ["y"]) for one in inputs(3)]
    for kind, opset in (("int8", 19), ("int16", 21)):
        proto = onnx.load(str(tmp_path / f"{kind}.onnx"))
        onnx.checker.check_model(proto, full_check=True)
        assert proto.opset_import[0].version == opset
        run = [Session(proto).run(one, ["y"]) for one in inputs(3)]
        assert compared(exact, run) > 22
        reference = ReferenceEvaluator(proto)
        assert compared(run, [reference.run(["y"], one) for one in inputs(3)]) > 35
    codes = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    assert {codes[f"w{i}_codes"].dtype for i in range(1, 5)} == {np.dtype(np.int8)}
    assert all(codes[f"w{i}_scale"].shape == (size,) for i, size in ((1, 8), (2, 8), (3, 8), (4, 5)))
    assert sum(array.dtype == np.int32 for array in codes.values()) == 4
    assert {one.key: one.value for one in proto.metadata_props}["halve.activations"] == "int16"


def test_contrib_keeps_the_operator_set(made, tmp_path):
    quantize(made[0], tmp_path / "out.onnx", made[1], activations="int16", calibrator="minmax", contrib=True)
    proto = onnx.load(str(tmp_path / "out.onnx"))
    assert {one.domain: one.version for one in proto.opset_import} == {"": 19, "com.microsoft": 1}


def test_same_inputs_same_bytes(made, tmp_path):
    for name in ("a", "b"):
        quantize(made[0], tmp_path / name, made[1])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_choices_do_not_lose(made):
    """What is chosen leaves at least as much as any plain combination, on the samples that it is chosen by."""
    model, samples = load(made[0]), inputs(1, 24)
    found = ptq.calibrate(model, samples)
    assert found.sqnr >= max(trial.sqnr for trial in found.trials) == found.chosen.sqnr
    assert {trial.calibrator for trial in found.trials} == set(CALIBRATORS)
    assert [name for name, _, _ in found.layers] == ["c1", "c2", "c3", "logits"]
    assert all(db > 10 for _, _, db in found.layers)
    names = stored(model)
    integers = found.integers
    values = Session(quantized(found.model, integers, adjustable=True), [f"{name}_rounded" for name in names])
    for name, array in zip(names, values.run(samples[0], [f"{name}_rounded" for name in names]), strict=True):
        step, zero = integers.affine(name)
        codes = array / step + zero
        np.testing.assert_allclose(codes, np.rint(codes), atol=1e-2)
        assert codes.min() > -0.5
        assert codes.max() < 255.5


def test_moments_are_those_of_the_product(made):
    """x^T H x of what is seen gives the energy of a convolution's outputs."""
    model = load(made[0])
    for name in ("c1", "c2", "c3", "logits"):
        node = next(node for node in model.nodes if node.output[0] == name)
        moments, weight = Moments(Operand(model, node), 0), model.constants[node.input[1]].astype(np.float64)
        taps = [node.input[0], name]
        energy = count = 0.0
        for one in inputs(4, 3):
            fed, out = Session(model.proto, taps).run(one, taps)
            moments.add(fed)
            bias = model.constants[node.input[2]]
            plain = out - (bias.reshape(-1, 1, 1) if out.ndim == 4 else bias)
            energy += np.square(plain, dtype=np.float64).sum()
            count += out.size / len(bias)
        shape = moments.operand.shape
        rows = (weight.T if name == "logits" else weight).reshape(shape.groups, shape.rows, shape.columns)
        expected = np.einsum("grc,gcd,grd->", rows, moments.hessians, rows) * count
        assert energy == pytest.approx(expected, rel=1e-4)


def test_calibrators():
    rng = np.random.default_rng(0)
    values = rng.standard_t(3, size=100_000).astype(np.float32)
    seen = Seen()
    seen.widen(values)
    seen.count(values)
    found = {name: by(seen) for name, by in CALIBRATORS.items()}
    assert found["minmax"] == Range(values.min(), values.max())
    outside = np.mean((values < found["percentile"].low) | (values > found["percentile"].high))
    assert 2e-5 < outside <= 1e-4

    def error(one):
        step, zero = one.affine("int8")
        codes = np.clip(np.rint(values / step) + zero, 0, 255)
        return float(np.square((codes - zero) * step - values).mean())

    assert error(found["mse"]) == min(map(error, found.values()))
    tried = [
        error(Range(seen.low * a, seen.high * b)) for a in np.linspace(0.05, 1, 40) for b in np.linspace(0.05, 1, 40)
    ]
    assert error(found["mse"]) < 1.1 * min(tried) or found["mse"].high <= 0.31 * seen.high
    assert found["entropy"].high < 0.9 * seen.high
    flat = Seen()
    flat.widen(np.zeros(4, np.float32))
    flat.count(np.zeros(4, np.float32))
    assert all(by(flat) == Range(0, 0) for by in CALIBRATORS.values())


def test_nearest_weights():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(8, 5)).astype(np.float32)

    class Model:
        constants = {"w": weight}  # noqa: RUF012
        weight_of = staticmethod(lambda node: node.input[1])

    found = nearest(Model, helper.make_node("MatMul", ["x", "w"], ["y"]))
    assert found.axis == 1
    np.testing.assert_array_equal(np.abs(found.codes).max(axis=0), 127)
    assert np.abs(found.values - weight).max() <= found.scales.max() / 2 + 1e-7


def spoiled(**attributes):
    """A change of a graph that appends a node."""

    def change(graph):
        graph.node.insert(0, helper.make_node(inputs=["x"], outputs=["spare"], **attributes))

    return change


def nan(graph):
    graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((8, 3, 3, 3), np.nan, np.float32), "w1"))


def branch(graph):
    body = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["inside"])],
        "body",
        [],
        [helper.make_tensor_value_info("inside", TensorProto.FLOAT, None)],
    )
    flag = helper.make_node("Constant", [], ["flag"], value=numpy_helper.from_array(np.array(True)))
    graph.node.insert(0, helper.make_node("If", ["flag"], ["spare"], then_branch=body, else_branch=body))
    graph.node.insert(0, flag)


@pytest.mark.parametrize(
    ("change", "opset", "error", "words"),
    [
        (spoiled(op_type="QuantizeLinear"), 13, UnsupportedError, "quantized already"),
        (spoiled(op_type="Own", domain="com.example"), 13, UnsupportedError, "no ONNX operator"),
        (lambda graph: None, 999, UnsupportedError, "newer than"),
        (nan, 13, FormatError, "NaN"),
        (branch, 13, UnsupportedError, "chooses between graphs"),
    ],
)
def test_models_that_cannot_be(tmp_path, change, opset, error, words):
    with pytest.raises(error, match=words) as found:
        load(net(tmp_path / "net.onnx", change=change, opset=opset))
    assert found.value.hint


def test_external_data_is_missing(tmp_path):
    path = net(tmp_path / "net.onnx")
    onnx.save(onnx.load(str(path)), str(path), save_as_external_data=True, location="data", size_threshold=64)
    (tmp_path / "data").unlink()
    with pytest.raises(CheckpointError, match="data"):
        load(path)


def test_calibration_that_cannot_be(made, tmp_path):
    model = load(made[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnsupportedError, match="no calibration inputs"):
        read(tmp_path / "empty", model, Picture())
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(CheckpointError, match=r"bad.png: not an image"):
        read(tmp_path, model, Picture())
    np.save(tmp_path / "wrong.npy", np.zeros((4, 3, 5, 5), np.float32))
    with pytest.raises(UnsupportedError, match=r"x is \[\?, 3, 12, 12\], and this is \[4, 3, 5, 5\]"):
        read(tmp_path / "wrong.npy", model, Picture())
    np.savez(tmp_path / "other.npz", z=np.zeros((4, 3, 12, 12), np.float32))
    with pytest.raises(UnsupportedError, match="no array for x"):
        read(tmp_path / "other.npz", model, Picture())
    np.save(tmp_path / "pickled.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="not an array"):
        read(tmp_path / "pickled.npy", model, Picture())
    with pytest.raises(UnsupportedError, match="3 calibration samples are too few"):
        ptq.calibrate(model, inputs(0, 3))
    with pytest.raises(UnknownNameError, match="calibrator"):
        ptq.calibrate(model, inputs(0, 8), calibrator="best")
    with pytest.raises(UnsupportedError, match="does not take a calibration input"):
        ptq.calibrate(model, [{"x": np.zeros((1, 4, 9, 9), np.float32)}] * 8)
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="exists"):
        quantize(made[0], tmp_path / "taken", made[1])


def test_command_line(made, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for index in range(9):
        pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
    said = ["--calibration", str(tmp_path / "images"), "--out", str(tmp_path / "out.onnx"), "--json"]
    done = CliRunner().invoke(command, ["quantize", str(made[0]), *said, "--mean", "127.5", "--std", "63.75"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["samples"] == 9
    assert told["bytes"] == (tmp_path / "out.onnx").stat().st_size
    assert len(told["trials"]) == 24
    for wrong in (["--mean", "a"], ["--size", "12"]):
        assert CliRunner().invoke(command, ["quantize", str(made[0]), *said, *wrong]).exit_code == 2
