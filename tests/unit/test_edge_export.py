"""The vendor's toolkit is driven from outside: what it gets, and what becomes of its deaths, silences and lies."""

import stat
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the extra edge has it")
onnx = pytest.importorskip("onnx", reason="the extra edge has it")

from click.testing import CliRunner  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static  # noqa: E402

from halve.cli.edge import command  # noqa: E402
from halve.edge.quantize import quantize  # noqa: E402
from halve.edge.rknn import environment as rknn_environment  # noqa: E402
from halve.edge.rknn.environment import environment  # noqa: E402
from halve.edge.rknn.export import export, fixed  # noqa: E402
from halve.edge.rknn.stripped import stripped  # noqa: E402
from halve.edge.running import Session, compared  # noqa: E402
from halve.errors import OutputError, UnsupportedError  # noqa: E402

SHAPE = (1, 3, 8, 8)


def samples(seed, count=9):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, *SHAPE[1:])).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A float model, its integers, and calibration inputs."""
    folder = tmp_path_factory.mktemp("export")
    rng = np.random.default_rng(0)
    constants = {"w": rng.normal(size=(4, 3, 3, 3)), "b": rng.normal(size=4), "v": rng.normal(size=(4, 4, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 1, 1])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "net.onnx"))
    np.save(folder / "inputs.npy", samples(1, 24))
    quantize(folder / "net.onnx", folder / "int8.onnx", folder / "inputs.npy")
    return folder


def test_stripped_computes_what_the_codes_stand_for(made):
    found = stripped(made / "int8.onnx")
    assert not {node.op_type for node in found.proto.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    assert set(found.ranges) == {"x", "r", "d"}
    assert not found.wide
    whole = onnx.load(str(made / "int8.onnx"))
    inputs = [{"x": one[None]} for one in samples(2)]
    run = [[Session(proto).run(one, ["y"]) for one in inputs] for proto in (whole, found.proto)]
    assert compared(*run) > 25
    values = Session(found.proto, ["r"]).run(inputs[0], ["r"])[0]
    low, high = found.ranges["r"]
    assert low == 0
    assert values.max() < 1.5 * high


@pytest.mark.parametrize("kind", [QuantType.QUInt8, QuantType.QInt8])
def test_ranges_of_another_tool(made, tmp_path, kind):
    class Reader(CalibrationDataReader):
        left = iter([{"x": one[None]} for one in samples(1)])

        def get_next(self):
            return next(self.left, None)

    out = tmp_path / "theirs.onnx"
    quantize_static(str(made / "net.onnx"), str(out), Reader(), activation_type=kind, per_channel=True)
    found = stripped(out)
    exact = Session(onnx.load(str(made / "net.onnx")), ["d"])
    values = np.concatenate([exact.run({"x": one[None]}, ["d"])[0] for one in samples(1)])
    assert "y" in found.ranges
    assert "y" in {name for node in found.proto.graph.node for name in node.output}
    onnx.checker.check_model(found.proto)
    low, high = found.ranges["d"]
    assert low == pytest.approx(values.min(), rel=0.02)
    assert high == pytest.approx(values.max(), rel=0.02)
    (weight,) = (one for one in found.proto.graph.initializer if list(one.dims) == [4, 3, 3, 3])
    original = numpy_helper.to_array(onnx.load(str(made / "net.onnx")).graph.initializer[0])
    assert np.abs(numpy_helper.to_array(weight) - original).max() < np.abs(original).max() / 127


def test_no_codes_in_it(made):
    with pytest.raises(UnsupportedError, match="no QuantizeLinear"):
        stripped(made / "net.onnx")


def test_fixed_shapes(made):
    proto = fixed(onnx.load(str(made / "net.onnx")), {"x": samples(0, 1)})
    shapes = [
        [d.dim_value for d in one.type.tensor_type.shape.dim] for one in (*proto.graph.input, *proto.graph.output)
    ]
    assert shapes == [list(SHAPE), [1, 4, 1, 1]]


def toolkit(folder, script):
    """A Python that runs ``script`` in place of the worker, which it gets as its argument."""
    (folder / "fake.py").write_text(script)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {folder / "fake.py"} "$3"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return python


GOOD = """
import json, sys
import numpy as np
import onnxruntime
job = json.load(open(sys.argv[1]))
if job["route"] == "own" and job["algorithm"] == "mmse":
    raise SystemExit("Error: none of that")
run = onnxruntime.InferenceSession(job["model"], providers=["CPUExecutionProvider"])
found = [run.run(None, {"x": np.load(paths[0])})[0] for paths in job["judging"]]
found = [one + (0.5 if job["route"] == "own" else 0) for one in found]
open(job["out"], "wb").write(job["route"].encode())
np.savez(job["simulated"], output_0=np.stack(found).reshape(len(found), -1))
told = {"kept": len(job["ranges"]), "tensors": 9, "float16": len(job["float16"])}
open(sys.argv[1] + ".answer", "w").write(json.dumps(told))
"""
DIES = "import os, signal\nprint('E RKNN: Unkown op target: 0')\nos.kill(os.getpid(), signal.SIGFPE)\n"


def test_ranges_reach_the_toolkit(made, tmp_path):
    python = toolkit(tmp_path, GOOD)
    out = tmp_path / "net.rknn"
    found = export(made / "int8.onnx", made / "net.onnx", out, made / "inputs.npy", target="rk3588", python=python)
    assert out.read_bytes() == b"hybrid"
    assert (found.route, found.kept, found.tensors, found.judged) == ("hybrid", 3, 9, 20)
    assert found.simulated["hybrid"] > 25 > found.simulated["kl_divergence"]
    assert found.ours > 25
    assert found.failed == ("mmse: it ended with exit code 1 (Error: none of that).",)
    assert [row[0] for row in found.rows()][2:] == ["halve's ranges, written", "the toolkit's kl_divergence"]
    with pytest.raises(OutputError, match="exists"):
        export(made / "int8.onnx", made / "net.onnx", out, made / "inputs.npy", target="rk3588", python=python)


def test_a_death_leads_to_the_other_route(made, tmp_path):
    script = f"import json, sys\nif json.load(open(sys.argv[1]))['route'] == 'hybrid':\n    exec({DIES!r})\n{GOOD}"
    python = toolkit(tmp_path, script)
    arguments = (made / "int8.onnx", made / "net.onnx", tmp_path / "out.rknn", made / "inputs.npy")
    found = export(*arguments, target="rk3588", python=python)
    assert found.route == "direct"
    assert found.failed[0] == "hybrid: it died of SIGFPE (E RKNN: Unkown op target: 0)."


def test_what_is_better_in_the_simulator_is_written(made, tmp_path):
    python = toolkit(tmp_path, GOOD.replace('0.5 if job["route"] == "own"', '0.5 if job["route"] == "hybrid"'))
    out = tmp_path / "net.rknn"
    found = export(made / "int8.onnx", made / "net.onnx", out, made / "inputs.npy", target="rk3588", python=python)
    assert (found.route, out.read_bytes()) == ("kl_divergence", b"own")
    assert found.to_json()["sqnr_db"]["rknn_simulator"].keys() == {"hybrid", "kl_divergence"}


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (DIES, "died of SIGFPE"),
        ("import time; time.sleep(60)", "not done within 1 s"),
        ("open(__import__('sys').argv[1] + '.answer', 'w').write('[')", "exit code 0"),
        ("raise SystemExit('ValueError: Error of theirs')", "Error of theirs"),
        (
            "open(__import__('sys').argv[1] + '.answer', 'w').write('{\"error\": \"load_onnx failed\"}')",
            "load_onnx failed",
        ),
        ("open(__import__('sys').argv[1] + '.answer', 'w').write('{}')", "outputs are not those"),
        (GOOD.replace("np.stack(found)", "np.stack(found)[:, :, :1]"), "outputs are not those"),
    ],
)
def test_failures_are_told(made, tmp_path, script, words):
    python = toolkit(tmp_path, script)
    arguments = (made / "int8.onnx", made / "net.onnx", tmp_path / "out.rknn", made / "inputs.npy")
    with pytest.raises(UnsupportedError, match=words) as error:
        export(*arguments, target="rk3588", python=python, seconds=1 if "sleep" in script else 60)
    assert "halve edge check" in error.value.hint
    assert sorted(one.name for one in tmp_path.iterdir()) == ["fake.py", "python"]


def test_a_model_of_another_source_is_refused(made, tmp_path):
    other = onnx.load(str(made / "net.onnx"))
    other.doc_string = "another"
    onnx.save(other, str(tmp_path / "other.onnx"))
    arguments = (made / "int8.onnx", tmp_path / "other.onnx", tmp_path / "out.rknn", made / "inputs.npy")
    with pytest.raises(UnsupportedError, match="was not made of"):
        export(*arguments, target="rk3588", python=toolkit(tmp_path, GOOD))


def test_the_licence_comes_first(made, tmp_path):
    with pytest.raises(UnsupportedError, match="licence of its own") as error:
        environment(tmp_path / "env", accepted=False)
    assert "--accept-rknn-license" in error.value.hint
    assert not (tmp_path / "env").exists()
    said = ["export", str(made / "int8.onnx"), "--source", str(made / "net.onnx"), "--out", str(tmp_path / "o.rknn")]
    done = CliRunner().invoke(command, [*said, "--calibration", str(made / "inputs.npy")])
    assert isinstance(done.exception, UnsupportedError)


def test_an_environment_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made") as error:
        environment(tmp_path / "file" / "env", accepted=True)
    assert "ensurepip" in error.value.hint


def test_an_environment_that_stands_is_used(tmp_path):
    from importlib.resources import files

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text("")
    (tmp_path / "installed.txt").write_text(files("halve.edge.rknn").joinpath("requirements.txt").read_text())
    assert environment(tmp_path, accepted=True) == tmp_path / "bin" / "python"


def test_two_at_once_make_one(tmp_path, monkeypatch):
    """The second waits for the first, and uses what that has made."""
    folder, making = tmp_path / "cache" / "env", []

    def make(folder, python, requirements):
        del requirements
        making.append(folder)
        time.sleep(0.3)
        python.parent.mkdir(parents=True)
        python.write_text("")

    monkeypatch.setattr(rknn_environment, "_make", make)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: environment(folder, accepted=True), range(2)))
    assert found == [folder / "bin" / "python"] * 2
    assert making == [folder]


def test_the_worker_needs_no_halve():
    from importlib.resources import files

    text = files("halve.edge.rknn").joinpath("worker.py").read_text()
    assert "import halve" not in text
    assert "from halve" not in text
    compile(text, "worker.py", "exec")


CONFIG = """custom_quantize_layers: {}
quantize_parameters:
  r:
    qtype: asym
    qmethod: layer
    dtype: int8
    min:
    - 0.0
    max:
    - 8.632692337036133
    scale:
    - 0.03385369543935739
    zero_point:
    - -128
    ori_min:
    - 3.3967541609037765e-15
    ori_max:
    - 9.74
  w:
    qtype: sym
    qmethod: channel
    dtype: int8
    min:
    - -1.0
    - -2.0
    max:
    - 1.0
    - 2.0
  y:
    qtype: asym
    qmethod: layer
    dtype: float16
    min:
    - -1.0
    max:
    - 1.0
"""


@pytest.mark.parametrize("indent", [2, 4])
def test_only_the_lines_of_ranges_change(tmp_path, monkeypatch, indent):
    for name in ("rknn", "rknn.api"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["rknn.api"].RKNN = None
    from halve.edge.rknn.worker import edited

    path = tmp_path / "net.quantization.cfg"
    text = "\n".join(
        " " * (indent // 2 * (len(line) - len(line.lstrip()))) + line.lstrip() for line in CONFIG.split("\n")
    )
    path.write_text(text)
    job = {"ranges": {"r": (-0.5, 7.25), "w": (-9.0, 9.0), "y": (0.0, 1.0)}, "float16": ["y", "z"]}
    assert edited(path, job) == {"kept": 1, "tensors": 3, "float16": 1}
    expected = text.replace("- 0.0\n", "- -0.5\n").replace("- 8.632692337036133", "- 7.25")
    assert path.read_text() == expected.replace("layers: {}", "layers:\n  y: float16")
    monkeypatch.delitem(sys.modules, "halve.edge.rknn.worker")
