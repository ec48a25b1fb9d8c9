"""Boxes and scores in one output: found, told, and parted where that is asked for."""

import json

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the extra edge has it")
onnx = pytest.importorskip("onnx", reason="the extra edge has it")

from click.testing import CliRunner  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from halve.cli.edge import command  # noqa: E402
from halve.edge import ptq  # noqa: E402
from halve.edge.joins import destructive, split  # noqa: E402
from halve.edge.model import load  # noqa: E402
from halve.edge.running import Session  # noqa: E402


def net(path, *, size):
    """Boxes of ``size`` pixels beside scores of 0 to 1; a second output of scores alone."""
    rng = np.random.default_rng(0)
    constants = {"w": rng.normal(size=(8, 6)), "v": rng.normal(size=(8, 3)), "pixels": size}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Mul", ["h", "pixels"], ["boxes"]),
        helper.make_node("MatMul", ["x", "v"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Concat", ["boxes", "scores"], ["y"], axis=1),
        helper.make_node("Relu", ["logits"], ["z"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", wide]) for name, wide in (("y", 9), ("z", 3))],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10), str(path))
    return path


INPUTS = [{"x": one[None]} for one in np.random.default_rng(1).normal(size=(12, 8)).astype(np.float32)]


def test_found_and_parted(tmp_path):
    model = load(net(tmp_path / "net.onnx", size=640.0))
    (found,) = destructive(model, INPUTS)
    assert (found.output, found.axis, found.parts) == ("y", 1, ("boxes", "scores"))
    whole = Session(model.proto).run(INPUTS[0], ["y"])[0]
    assert found.sqnr[0] > 30
    assert found.sqnr[1] < 3
    parted = split(model, [found])
    assert parted.outputs == ("boxes", "scores", "z")
    assert "y" not in parted.producers
    onnx.checker.check_model(parted.proto, full_check=True)
    np.testing.assert_array_equal(np.concatenate(Session(parted.proto).run(INPUTS[0], found.parts), axis=1), whole)
    assert ptq.judged(parted) == ("boxes", "logits", "z")
    assert destructive(load(net(tmp_path / "alike.onnx", size=0.5)), INPUTS) == ()


def test_command_line(tmp_path):
    made = net(tmp_path / "net.onnx", size=640.0)
    np.save(tmp_path / "inputs.npy", np.concatenate([one["x"] for one in INPUTS]))
    said = ["quantize", str(made), "--calibration", str(tmp_path / "inputs.npy"), "--calibrator", "minmax", "--out"]
    told = CliRunner().invoke(command, [*said, str(tmp_path / "whole.onnx")])
    assert told.exit_code == 0, told.output
    assert "--split-outputs" in told.output.replace("\n", " ")
    done = CliRunner().invoke(command, [*said, str(tmp_path / "parts.onnx"), "--split-outputs", "--json"])
    assert [one["parts"] for one in json.loads(done.stdout)["split"]] == [["boxes", "scores"]]
    assert [one.name for one in onnx.load(str(tmp_path / "parts.onnx")).graph.output] == ["boxes", "scores", "z"]
