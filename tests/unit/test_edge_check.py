"""What becomes of a model on an NPU: layers, limits, cost, and points of published tables."""

import json
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the extra edge is not installed")

from click.testing import CliRunner  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import halve.edge  # noqa: E402
from halve.cli.edge_check import command  # noqa: E402
from halve.edge import factors, points  # noqa: E402
from halve.edge.assess import checked  # noqa: E402
from halve.edge.capability import place  # noqa: E402
from halve.edge.cost import macs  # noqa: E402
from halve.edge.layers import Layer, Table, read  # noqa: E402
from halve.edge.models import dump, load, published  # noqa: E402
from halve.edge.targets import find, targets  # noqa: E402
from halve.errors import CheckpointError, UnknownNameError, UnsupportedError  # noqa: E402

CSV = "kind,platform,model,input,dtype,cores,metric,value,evidence\n"


def model(nodes, inputs, outputs, weights=(), opset=17):
    """A graph of ``nodes``; inputs and outputs are (name, shape), weights (name, array)."""
    values = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in both] for both in (inputs, outputs)]
    graph = helper.make_graph(nodes, "g", *values, [numpy_helper.from_array(a, n) for n, a in weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def saved(tmp_path: Path, *args, **kwargs) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(model(*args, **kwargs), path)
    return path


def weight(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def network(tmp_path: Path, size: object = 32, channels: int = 16) -> Path:
    """A convolution with SiLU, a depthwise one with ReLU, a sum of both."""
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["c"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Mul", ["c", "s"], ["y"]),
        helper.make_node("Conv", ["y", "b"], ["d"], name="second", pads=[1, 1, 1, 1], group=channels),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("Add", ["y", "e"], ["z"], name="sum"),
    ]
    weights = [("a", weight(channels, 3, 3, 3)), ("b", weight(channels, 1, 3, 3))]
    return saved(tmp_path, nodes, [("x", [1, 3, size, size])], [("z", [1, channels, size, size])], weights)


def conv(channels: int = 64, size: int = 32, kernel: int = 3, **changes) -> Layer:
    values = {
        "name": "c",
        "op": "Conv",
        "inputs": ((1, channels, size, size),),
        "output": (1, channels, size, size),
        "weights": channels * channels * kernel**2,
        "macs": channels * channels * kernel**2 * size**2,
        "kernel": (kernel, kernel),
    }
    return Layer(**values | changes)


def test_functions_of_one_output_belong_to_its_layer(tmp_path):
    table = read(network(tmp_path))
    assert [(one.name, one.op, one.fused) for one in table.layers] == [
        ("first", "Conv", ("Sigmoid", "Mul")),
        ("second", "Conv", ("Relu",)),
        ("sum", "Add", ()),
    ]
    first, second, total = table.layers
    assert first.macs == 16 * 32 * 32 * 3 * 9
    assert first.weights == 16 * 3 * 9
    assert first.curved
    assert second.macs == 16 * 32 * 32 * 9
    assert second.depthwise
    assert not second.curved
    assert total.inputs == ((1, 16, 32, 32),) * 2
    assert not total.macs


def test_a_hard_swish_written_out_is_curved(tmp_path):
    """x * clip(x + 3, 0, 6) / 6"""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Add", ["c", "three"], ["a"]),
        helper.make_node("Clip", ["a", "zero", "six"], ["b"]),
        helper.make_node("Mul", ["c", "b"], ["d"]),
        helper.make_node("Div", ["d", "six"], ["y"]),
        helper.make_node("Conv", ["y", "w"], ["z"]),
        helper.make_node("Mul", ["z", "six"], ["out"]),
    ]
    constants = [(name, np.array(value, np.float32)) for name, value in {"zero": 0, "three": 3, "six": 6}.items()]
    path = saved(
        tmp_path, nodes, [("x", [1, 4, 8, 8])], [("out", [1, 4, 8, 8])], [("w", weight(4, 4, 1, 1)), *constants]
    )
    assert [layer.curved for layer in read(path).layers] == [True, False]


def test_macs_of_each_product(tmp_path):
    nodes = [
        helper.make_node("ConvTranspose", ["x", "t"], ["a"], strides=[2, 2]),
        helper.make_node("Reshape", ["a", "shape"], ["b"]),
        helper.make_node("Gemm", ["b", "g"], ["c"], transB=1),
        helper.make_node("MatMul", ["c", "m"], ["y"]),
    ]
    constants = [
        ("t", weight(4, 8, 2, 2)),
        ("g", weight(5, 8 * 6 * 6)),
        ("m", weight(5, 7)),
        ("shape", np.array([1, -1])),
    ]
    table = read(saved(tmp_path, nodes, [("x", [1, 4, 3, 3])], [("y", [1, 7])], constants))
    assert {one.op: one.macs for one in table.layers if one.macs} == {
        "ConvTranspose": 4 * 3 * 3 * 8 * 4,
        "Gemm": 5 * 8 * 6 * 6,
        "MatMul": 5 * 7,
    }


def test_a_product_of_two_vectors_is_a_layer(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    found = halve.edge.check(saved(tmp_path, nodes, [("x", [8])], [("y", [])], [("w", weight(8))]), "rk3588")
    assert found.steps[0].layer.macs == 8


def test_a_quantized_weight_is_a_weight(tmp_path):
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["y"]),
    ]
    constants = [("codes", np.zeros((4, 4, 1, 1), np.int8)), ("scale", np.array(1, np.float32))]
    (layer,) = read(saved(tmp_path, nodes, [("x", [1, 4, 8, 8])], [("y", [1, 4, 8, 8])], constants)).layers
    assert (layer.weights, layer.inputs) == (16, ((1, 4, 8, 8),))


def test_sizes_that_a_graph_computes_are_folded(tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["c"]),
        helper.make_node("Div", ["c", "two"], ["half"]),
        helper.make_node("Mul", ["half", "two"], ["end"]),
        helper.make_node("Slice", ["x", "half", "end", "one"], ["l"]),
        helper.make_node("Relu", ["l"], ["y"]),
    ]
    constants = [("one", np.array([1])), ("two", np.array([2]))]
    table = read(saved(tmp_path, nodes, [("x", [1, 8, 4, 4])], [("y", [1, "half", 4, 4])], constants))
    assert [(one.op, one.output) for one in table.layers] == [("Slice", (1, 4, 4, 4)), ("Relu", (1, 4, 4, 4))]


def test_open_dimensions_have_to_be_fixed(tmp_path):
    path = network(tmp_path, size="size")
    with pytest.raises(UnsupportedError, match="dimension 2 of x is open") as error:
        read(path)
    assert "--shape x=1,3,N,N" in error.value.hint
    assert read(path, {"x": (1, 3, 64, 64)}).layers[0].output == (1, 16, 64, 64)
    with pytest.raises(UnsupportedError, match="no input y"):
        read(path, {"y": (1, 3, 64, 64)})
    with pytest.raises(UnsupportedError, match="4 dimensions, not 2"):
        read(path, {"x": (1, 3)})


def test_branches_are_refused(tmp_path):
    body = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["b"])], "b", [], [helper.make_tensor_value_info("b", 1, [1, 4])]
    )
    nodes = [helper.make_node("If", ["k"], ["y"], name="choice", then_branch=body, else_branch=body)]
    path = saved(tmp_path, nodes, [("x", [1, 4])], [("y", [1, 4])], [("k", np.array(True))])
    with pytest.raises(UnsupportedError, match="If choice chooses between graphs"):
        halve.edge.check(path, "rk3588")


def test_what_is_no_model_is_an_error(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"\x99" * 40)
    with pytest.raises(CheckpointError, match="not an ONNX model"):
        halve.edge.check(path, "rk3588")
    with pytest.raises(UnknownNameError, match="rk9999"):
        halve.edge.check(network(tmp_path), "rk9999")


@pytest.mark.parametrize(
    ("layer", "unit", "reason"),
    [
        (conv(), "NPU", ""),
        (conv(kernel=33), "CPU", "kernel 33, more than 31"),
        (conv(stride=(9, 9)), "CPU", "stride 9, not one of 1 to 7"),
        (conv(pads=(16, 16, 16, 16)), "CPU", "padding 16, more than 15"),
        (conv(op="LayerNormalization"), "CPU", "LayerNormalization has no NPU kernel"),
        (conv(op="Transpose", size=8), "NPU", ""),
        (conv(op="Transpose", size=64), "CPU", "Transpose of 262144 elements, more than 65536"),
        (conv(op="Resize", detail="mode cubic"), "CPU", "mode cubic, not nearest or linear"),
        (conv(op="Max", channels=9000, size=1), "CPU", "channels 9000, more than 8192"),
        (conv(op="GridSample"), "none", "GridSample is not in the toolkit's list of operators"),
    ],
)
def test_placements(layer, unit, reason):
    found = place(layer, find("rk3588"), "INT8")
    assert (found.unit, found.reason) == (unit, reason)


def test_a_product_of_activations_leaves_the_npu_of_rk3568_alone():
    layer = Layer(name="m", op="MatMul", inputs=((1, 8, 8), (1, 8, 8)), output=(1, 8, 8), macs=512)
    assert [place(layer, one, "INT8").unit for one in targets().values()] == ["NPU", "NPU", "NPU", "CPU"]


def test_idle_lanes_of_the_array_cost_as_much_as_used_ones():
    target = find("rk3588")
    inside = place(conv(), target, "INT8")
    assert macs(conv(channels=33), inside, target) == macs(conv(channels=64), inside, target)
    assert macs(conv(channels=64), inside, target) == conv(channels=64).macs


@pytest.mark.parametrize("target", sorted(targets()))
@pytest.mark.parametrize("dtype", ["INT8", "INT16", "FP16"])
def test_more_work_is_never_faster(tmp_path, target, dtype):
    sizes = [halve.edge.check(network(tmp_path, size=size), target, dtype=dtype).fps for size in (16, 32, 64, 256)]
    widths = [halve.edge.check(network(tmp_path, channels=c), target, dtype=dtype).fps for c in (3, 16, 40, 128)]
    assert sizes == sorted(sizes, reverse=True)
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("target", sorted(targets()))
@pytest.mark.parametrize("model", ["mobilenetv2-12", "yolov5n", "yolo11s", "lprnet", "clip_images"])
def test_sixteen_bits_are_never_faster(model, target):
    table = Table(tuple(layer for _, layer in published()[model]), {}, {}, quantized=False)
    narrow, wide = (checked(table, model, find(target), dtype) for dtype in ("INT8", "FP16"))
    assert narrow.fps > wide.fps


def test_sixteen_bits_are_slower_and_move_twice_the_bytes(tmp_path):
    path = network(tmp_path, channels=128)
    narrow, wide = (halve.edge.check(path, "rk3588", dtype=dtype) for dtype in ("INT8", "FP16"))
    assert wide.fps < narrow.fps
    assert wide.weight_bytes == 2 * narrow.weight_bytes
    assert [s.nbytes for s in wide.steps[1:]] == [2 * s.nbytes for s in narrow.steps[1:]]


@pytest.mark.parametrize(("domain", "opset"), [("", 21), ("com.microsoft", 17)])
def test_a_quantized_model_says_what_its_layers_are_stored_in(tmp_path, domain, opset):
    def rounded(name: str, zero: str) -> list:
        return [
            helper.make_node("QuantizeLinear", [name, "scale", zero], [f"{name}q"], domain=domain),
            helper.make_node("DequantizeLinear", [f"{name}q", "scale", zero], [f"{name}r"], domain=domain),
        ]

    nodes = [
        *rounded("x", "narrow"),
        helper.make_node("Conv", ["xr", "w"], ["a"], name="a"),
        *rounded("a", "wide"),
        helper.make_node("Conv", ["ar", "w"], ["b"], name="b"),
        helper.make_node("Conv", ["b", "w"], ["y"], name="c"),
    ]
    constants = [
        ("w", weight(4, 4, 1, 1)),
        ("scale", np.array(1, np.float32)),
        ("narrow", np.array(0, np.uint8)),
        ("wide", np.array(0, np.uint16)),
    ]
    path = saved(tmp_path, nodes, [("x", [1, 4, 8, 8])], [("y", [1, 4, 8, 8])], constants, opset=opset)
    found = halve.edge.check(path, "rk3588")
    assert found.quantized
    assert [step.placement.text for step in found.steps] == ["NPU INT8", "NPU INT16", "NPU FP16"]


def test_operators_of_others_are_named(tmp_path):
    nodes = [helper.make_node("FusedConv", ["x", "w"], ["y"], domain="com.microsoft")]
    path = saved(tmp_path, nodes, [("x", [1, 4, 8, 8])], [("y", [1, 4, 8, 8])], [("w", weight(4, 4, 1, 1))])
    with pytest.raises(UnsupportedError, match="FusedConv of com.microsoft is no ONNX operator"):
        read(path)


def test_what_is_not_int8_convolutions_has_the_wide_interval(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = saved(tmp_path, nodes, [("x", [1, 64, 256])], [("y", [1, 64, 256])], [("w", weight(256, 256))])
    wide = halve.edge.check(path, "rk3588")
    narrow = halve.edge.check(network(tmp_path), "rk3588")
    assert wide.fps_interval[1] / wide.fps > 1.5 > narrow.fps_interval[1] / narrow.fps


def test_an_estimate_holds_together(tmp_path):
    found = halve.edge.check(network(tmp_path), "rk3588")
    low, high = found.fps_interval
    assert low < found.fps < high
    assert found.fps == pytest.approx(1e9 / sum(step.cycles for step in found.steps), rel=1e-3)
    assert found.runs
    assert found.cpu_share == 0
    assert not found.fallbacks
    assert found.weight_bytes == 16 * 3 * 9 + 16 * 9
    assert found.activation_bytes == 3 * 16 * 32 * 32
    json.dumps(found.to_json())


def test_command(tmp_path):
    path = network(tmp_path)
    result = CliRunner().invoke(command, [str(path), "--target", "rk3588"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "Conv+Sigmoid+Mul" in result.output
    assert "NPU INT8" in result.output
    result = CliRunner().invoke(command, [str(path), "--target", "RK3568", "--json", "--dtype", "fp16"])
    found = json.loads(result.output)
    assert found["target"] == "RK3568"
    assert found["dtype"] == "FP16"
    assert len(found["layers"]) == 3
    assert CliRunner().invoke(command, [str(path), "--target", "rk3588", "--shape", "x"]).exit_code == 2


def test_published_models_have_their_known_sizes():
    """Multiplications as their authors state them: arXiv 1801.04381, 2107.08430, YOLOv5's and v8's READMEs."""
    stated = {
        "mobilenetv2-12": 0.300,
        "yolov5n": 4.5 / 2,
        "yolov5s": 16.5 / 2,
        "yolov5m": 49.0 / 2,
        "yolov8n": 8.7 / 2,
        "yolov8m": 78.9 / 2,
        "yolox_s": 26.8 / 2,
        "yolox_m": 73.8 / 2,
    }
    for name, expected in stated.items():
        found = sum(count * layer.macs for count, layer in published()[name]) / 1e9
        assert found == pytest.approx(expected, rel=0.03), name


def test_tables_of_models_survive_writing(tmp_path):
    path = tmp_path / "models.json"
    path.write_text(dump({"net": ("a paper", published()["yolov5n"])}))
    assert load(path) == {"net": ("a paper", published()["yolov5n"])}


def test_points(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text(
        CSV
        + "cnn,RK3588,yolov5s,640,INT8,1,fps,50,vendor table\n"
        + "cnn,RK3566/RK3568,yolov5s,640,INT8,1,latency_ms,40,user measurement\n"
        + "cnn,RK3588,wav2vec2_base_960h_20s,20s audio,FP16,1,rtf,0.1,vendor table\n"
        + "cnn,RK3588,yolov5s,640,INT8,3x1,fps,150,user measurement\n"
        + "cnn,RK3588,yolov5s,640,INT8,1,fps,0,vendor table\n"
        + "cnn,RK3588,yolov5s,640,INT8,1,fps,125,user measurement\n"
        + "cnn,RK3588,unheard,640,INT8,1,fps,50,vendor table\n"
        + "cnn,RK9999,yolov5s,640,INT8,1,fps,50,vendor table\n"
        + "cnn,RK3588,yolov5s,640,INT8,1,fps,50,COMPILER ESTIMATE\n"
        + "llm,RK3588,Qwen2 0.5B,128,w8a8,1,tok/s,41,vendor table\n"
    )
    found, unknown = points.read(path)
    assert [(one.target.name, one.seconds) for one in found] == [("RK3588", 0.02), ("RK3568", 0.04), ("RK3588", 2.0)]
    assert [one.why.split(":")[0].split(",")[0] for one in unknown] == [
        "on 3x1 cores",
        "value 0.0",
        "8 ms",
        "no layers of this model",
        "unknown target 'RK9999'",
        "an estimate",
    ]
    path.write_text("kind,model\n")
    with pytest.raises(CheckpointError, match="no column cores"):
        points.read(path)


def test_a_fit_recovers_the_factors_that_made_its_points(tmp_path):
    """Seconds computed from other factors than the fit starts from are predicted again."""
    from halve.edge.cost import NAMES
    from halve.edge.fit import Problem

    names = ("mobilenetv2-12", "yolov5n", "yolov8n", "resnet50-v2-7", "yolov6n", "yolo11s")
    made = [points.Point(n, n, find(t), "INT8", 1.0) for n in names for t in ("rk3588", "rk3568")]
    problem = Problem(made)
    common = np.array(factors.fit().parameters)[: len(NAMES)]
    truth = np.concatenate([common, np.zeros(len(NAMES) * len(factors.LEVELS))])
    problem.measured = np.exp(problem.residuals(truth))
    solved = problem.solve(np.ones(len(made), bool))
    assert np.abs(problem.residuals(solved)).max() < 0.1


def test_factors_left_out_differ_from_those_of_all():
    assert factors.fit(without="yolov5s") != factors.fit()
    assert factors.fit(without="a model of one's own") == factors.fit()
