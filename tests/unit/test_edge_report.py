"""Results side by side: what is equal is said to be, what is not is marked, and equalization is no loss."""

import json
import re

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the extra edge has it")
onnx = pytest.importorskip("onnx", reason="the extra edge has it")

from click.testing import CliRunner  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from PIL import Image  # noqa: E402

from halve.cli.edge import command  # noqa: E402
from halve.edge.beside import compare  # noqa: E402
from halve.edge.quantize import quantize  # noqa: E402
from halve.edge.samples import Picture  # noqa: E402


def net(path, *, is_map):
    rng = np.random.default_rng(0)
    constants = {"w": rng.normal(size=(6, 3, 3, 3)), "b": rng.normal(size=6), "v": rng.normal(size=(4, 6, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["y" if is_map else "d"]),
    ]
    if not is_map:
        nodes += [helper.make_node("GlobalAveragePool", ["d"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 16, 16] if is_map else [1, 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))


@pytest.fixture(params=[False, True], ids=["classifier", "map"])
def made(request, tmp_path):
    """A float model, its integers, and a folder of images."""
    net(tmp_path / "net.onnx", is_map=request.param)
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(1)
    for number in range(12):
        pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    quantize(tmp_path / "net.onnx", tmp_path / "int8.onnx", tmp_path / "images", picture=Picture())
    return tmp_path, request.param


def test_report(made):
    folder, is_map = made
    said = [
        "report",
        str(folder / "int8.onnx"),
        "--source",
        str(folder / "net.onnx"),
        "--inputs",
        str(folder / "images"),
    ]
    done = CliRunner().invoke(command, [*said, "--html", str(folder / "r.html"), "--target", "rk3588", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["samples"] == 12
    assert [one["name"] for one in told["outputs"]] == ["y"]
    assert told["outputs"][0]["sqnr_db"] > 20
    assert {one["operator"] for one in told["layers"]} == {"Conv"}
    assert all(one["sqnr_db"] > 20 for one in told["layers"])
    assert (told["agreement"] is None) == is_map
    page = (folder / "r.html").read_text()
    assert len(re.findall('<img src="data:image/png', page)) == 12 * (3 if is_map else 1)
    assert "Nothing." in page
    assert "<td>Conv" not in page


def test_a_model_beside_itself(made):
    folder, _ = made
    inputs = [{"x": np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)}]
    found = compare(folder / "net.onnx", folder / "net.onnx", inputs)
    assert all(db > 140 for _, _, db in found.layers)
    assert found.outputs[0][1] > 140
    assert found.agreement in (None, 1.0)


@pytest.mark.parametrize("made", [False], indirect=True, ids=["classifier"])
def test_another_decision_is_marked(made):
    folder, _ = made
    proto = onnx.load(str(folder / "net.onnx"))
    weight = next(one for one in proto.graph.initializer if one.name == "v")
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), "v"))
    onnx.save(proto, str(folder / "other.onnx"))
    said = ["report", str(folder / "other.onnx"), "--source", str(folder / "net.onnx")]
    said += ["--inputs", str(folder / "images"), "--html", str(folder / "r.html")]
    done = CliRunner().invoke(command, said)
    assert done.exit_code == 0, done.output
    assert "0.0 % of decisions the same" in " ".join(done.stdout.split())
    assert (folder / "r.html").read_text().count("(another)") == 12
