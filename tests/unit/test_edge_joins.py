"""Boxes and scores in one output: found, told, and parted where that is asked for."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the extra edge has it")
onnx = pytest.importorskip("onnx", reason="the extra edge has it")

from click.testing import CliRunner  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from halve.cli.edge import command  # noqa: E402
from halve.edge import ptq  # noqa: E402
from halve.edge.beside import compare  # noqa: E402
from halve.edge.joins import destructive, split, split_like  # noqa: E402
from halve.edge.model import load  # noqa: E402
from halve.edge.quantize import quantize  # noqa: E402
from halve.edge.rknn.export import export  # noqa: E402
from halve.edge.running import Session  # noqa: E402
from halve.errors import UnsupportedError  # noqa: E402


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


WORKER = """
import json, sys
import numpy as np
import onnxruntime
job = json.load(open(sys.argv[1]))
run = onnxruntime.InferenceSession(job["model"], providers=["CPUExecutionProvider"])
found = [run.run(None, {"x": np.load(paths[0])}) for paths in job["judging"]]
open(job["out"], "wb").write(",".join(one.name for one in run.get_outputs()).encode())
np.savez(job["simulated"], **{f"output_{at}": np.stack(one) for at, one in enumerate(zip(*found))})
open(sys.argv[1] + ".answer", "w").write("{}")
"""


def test_parts_are_exported_and_reported(tmp_path):
    """What is read by then gets the parts; the float model is parted in the same way."""
    made, parts, inputs = net(tmp_path / "net.onnx", size=640.0), tmp_path / "parts.onnx", tmp_path / "inputs.npy"
    np.save(inputs, np.concatenate([one["x"] for one in INPUTS]))
    quantize(made, parts, inputs, calibrator="minmax", split_outputs=True)
    (tmp_path / "worker.py").write_text(WORKER)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path / "worker.py"} "$3"\n')
    python.chmod(0o755)
    found = export(parts, made, out := tmp_path / "net.rknn", inputs, target="rk3588", python=python)
    assert out.read_text() == "boxes,scores,z"
    assert found.ours > 25
    assert found.failed == ()
    beside = compare(made, parts, INPUTS)
    assert [name for name, _ in beside.outputs] == ["boxes", "scores", "z"]
    assert min(db for _, db in beside.outputs) > 25


def test_other_outputs_are_refused(tmp_path):
    model = load(net(tmp_path / "net.onnx", size=640.0))
    assert split_like(model, ["y", "z"]) is model
    for outputs in (["boxes", "z"], ["boxes", "scores"], ["scores", "boxes", "z"], ["y"], ["w", "y", "z"]):
        with pytest.raises(UnsupportedError, match="has the outputs y, z, and the quantized model"):
            split_like(model, outputs)
