"""16 bits where they are worth most: what is reached is measured, and nothing is raised that need not be."""

import json

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the extra edge has it")
onnx = pytest.importorskip("onnx", reason="the extra edge has it")

from click.testing import CliRunner  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from halve.cli.edge import command  # noqa: E402
from halve.edge import hybrid, noise, ptq  # noqa: E402
from halve.edge.affine import Range  # noqa: E402
from halve.edge.hybrid import Goal  # noqa: E402
from halve.edge.knapsack import dearest  # noqa: E402
from halve.edge.metric import metric  # noqa: E402
from halve.edge.model import load  # noqa: E402
from halve.edge.noise import Judge  # noqa: E402
from halve.edge.qdq import Integers  # noqa: E402
from halve.edge.running import Session, compared  # noqa: E402
from halve.errors import FormatError, UnsupportedError  # noqa: E402

WIDTH = 16


def net(path, *, inf=False, nan=False):
    """A Gemm fed with an outlier in 8 bits hurts most, and is the cheapest; a wide one that no outlier reaches."""
    rng = np.random.default_rng(0)
    constants = {
        "w1": rng.normal(size=(WIDTH, WIDTH)),
        "w2": rng.normal(size=(WIDTH, 96)) / 4,
        "w3": rng.normal(size=(96, 96)) / 10,
        "w4": rng.normal(size=(96, 4)) / 10,
        "spike": np.where(np.arange(WIDTH) == 0, 600.0, -np.inf if inf else -1e3)[None],
        "spread": np.where(np.arange(WIDTH) == 0, 0.0, 1.0)[None],
        "four": np.array([-1, 4]),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m1"]),
        helper.make_node("Max", ["m1", "spike"], ["s1"]),
        helper.make_node("MatMul", ["s1", "w2_of_others"], ["m2"]),
        helper.make_node("Relu", ["m2"], ["r2"]),
        helper.make_node("MatMul", ["r2", "w3"], ["m3"]),
        helper.make_node("Relu", ["m3"], ["r3"]),
        helper.make_node("MatMul", ["r3", "w4"], ["m4"]),
        helper.make_node("Softmax", ["m4"], ["p"], axis=-1),
        helper.make_node("Reshape", ["p", "four"], ["y"]),
    ]
    constants["w2_of_others"] = constants.pop("w2") * constants.pop("spread").T
    if nan:
        constants["w3"][0, 0] = np.nan
    kinds = {"four": np.int64}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.asarray(v, kinds.get(n, np.float32)), n) for n, v in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=10), str(path))
    return path


def samples(seed, count=24):
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(1, WIDTH)).astype(np.float32)} for _ in range(count)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return net(tmp_path_factory.mktemp("edge") / "net.onnx")


def exact_and_found(model, found, inputs):
    outputs = ptq.judged(model)
    both = Session(model.proto, outputs), Session(hybrid.quantized(found.model, found.integers), outputs)
    return tuple([session.run(one, outputs) for one in inputs] for session in both)


def test_the_cheap_and_sensitive_one_is_raised(made):
    model = load(made)
    found = hybrid.mixed(model, samples(1), Goal(), calibrator="minmax")
    macs = {"x": WIDTH * WIDTH, "s1": WIDTH * 96, "r2": 96 * 96, "r3": 96 * 4}
    assert found.raised[0].name == "s1"
    assert found.calibrated.integers.wide == {one.name for one in found.raised} <= macs.keys() - {"r2"}
    assert {one.name: one.macs for one in found.raised}.items() <= macs.items()
    assert (found.macs_raised, found.macs) == (sum(one.macs for one in found.raised), sum(macs.values()))
    assert found.narrow < found.goal == found.widest - 3 <= found.score
    kept = samples(1)[2::3]
    assert (
        found.calibrated.sqnr
        == found.score
        == pytest.approx(compared(*exact_and_found(model, found.calibrated, kept)), rel=1e-12)
    )
    unseen = [
        compared(*exact_and_found(model, one, samples(2)))
        for one in (found.starts[0], found.calibrated, found.starts[1])
    ]
    assert unseen[0] + 10 < unseen[1] < unseen[2]
    again = hybrid.mixed(model, samples(1), Goal(), calibrator="minmax")
    assert again.to_json() == found.to_json()


def test_the_dearest_that_fit_stay():
    """The best of all subsets, where rounding noise up to one of 4096 levels forbids none."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        noise, worth = ({str(i): float(v) for i, v in enumerate(rng.random(9))} for _ in range(2))
        budget = float(rng.uniform(0.2, 3))
        subsets = [{str(i) for i in range(9) if mask >> i & 1} for mask in range(1 << 9)]
        fit = (one for one in subsets if sum(noise[i] for i in one) <= budget * (1 - 9 / 4096))
        best = max(sum(worth[i] for i in one) for one in fit)
        found = dearest(noise, worth, budget)
        assert sum(noise[i] for i in found) <= budget
        assert sum(worth[i] for i in found) >= best - 1e-12
    assert dearest(noise, worth, 0.0) == frozenset()
    assert dearest({"a": 2.0}, {"a": 1.0}, 1.0) == frozenset()


def test_noise_of_one_activation_alone(made):
    """Against the definition, by the model with this one rounded."""
    model = load(made)
    seen = ptq.calibrate(model, samples(1), calibrator="minmax").seen
    judge = Judge.of(model, ptq.judged(model), samples(1))
    whole = {name: one.whole for name, one in seen.items()}
    found = noise.alone(model, judge, whole, {name: [one] for name, one in whole.items()}, ptq.silent)
    assert found.keys() == whole.keys()
    for name, one in found.items():
        session = Session(hybrid.quantized(model, Integers({name: whole[name]}, {})), judge.names)
        np.testing.assert_allclose(judge.noise(session), one.parts, rtol=1e-4)
        assert one.range == whole[name]
    assert max(found, key=lambda name: found[name].parts.sum()) == "s1"
    total = sum(one.parts for one in found.values())
    assert (sum(one.parts for name, one in found.items() if name != "s1") < 0.05 * total).all()


def test_another_range_must_be_clearly_better(made):
    """Of outputs with few numbers none is, whatever it seems."""
    model, whole = load(made), Range(-3.0, 3.0)
    many = [{"x": one["x"].repeat(600, axis=0)} for one in samples(1)]
    for inputs, given, taken in (
        (many, whole.widened(4), whole),
        (many, whole.widened(1.05), whole.widened(1.05)),
        (samples(1), whole.widened(4), whole.widened(4)),
    ):
        judge = Judge.of(model, ptq.judged(model), inputs)
        found = noise.alone(model, judge, {"x": given}, {"x": [whole, whole]}, ptq.silent)
        assert found["x"].range == taken


def test_goals(made):
    model = load(made)
    low = hybrid.mixed(model, samples(1), Goal(5.0), calibrator="minmax")
    assert (low.raised, low.macs_raised) == ((), 0)
    assert not low.calibrated.integers.wide
    with pytest.raises(UnsupportedError, match="all activations in 16 bits reach") as raised:
        hybrid.mixed(model, samples(1), Goal(90.0), calibrator="minmax")
    assert "8 bits reach" in raised.value.hint
    asked = []

    def worst(exact, found):
        assert [one.keys() for one in exact] == [one.keys() for one in found] == [{"y"}] * 8
        asked.append(-max(float(np.abs(a["y"] - b["y"]).max()) for a, b in zip(exact, found, strict=True)))
        return asked[-1]

    least = -0.1
    judged = hybrid.mixed(model, samples(1), Goal(least, worst), calibrator="minmax")
    assert judged.narrow < least <= judged.score
    assert {judged.narrow, judged.widest, judged.score} <= set(asked)


@pytest.mark.parametrize(
    ("source", "place", "words"),
    [
        (None, "there.py:f", "no FILE.py:NAME"),
        ("def f(): ...", "metric.py", "no FILE.py:NAME"),
        ("f = 1", "metric.py:f", "has no function f"),
        ("raise ValueError('no')", "metric.py:f", "failed: ValueError: no"),
        ("def f(a, b): return a.b", "metric.py:f", "failed: AttributeError"),
        ("def f(a, b): return float('nan')", "metric.py:f", "no measure"),
    ],
)
def test_metrics_that_cannot_be(tmp_path, source, place, words):
    if source is not None:
        (tmp_path / "metric.py").write_text(source)
    with pytest.raises(UnsupportedError, match=words) as found:
        metric(str(tmp_path / place))([], [])
    assert "more is better" in found.value.hint


def test_command_line(made, tmp_path):
    np.savez(tmp_path / "inputs.npz", x=np.concatenate([one["x"] for one in samples(1)]))
    (tmp_path / "metric.py").write_text(
        "import numpy as np\ndef agree(exact, found):\n"
        "    return np.mean([a['y'].argmax() == b['y'].argmax() for a, b in zip(exact, found)])\n"
    )
    said = ["quantize", str(made), "--calibration", str(tmp_path / "inputs.npz"), "--calibrator", "minmax", "--json"]
    mixed = ["--activations", "mixed"]
    done = CliRunner().invoke(command, [*said, *mixed, "--out", str(tmp_path / "a.onnx")])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["activations"] == "mixed"
    raised = {one["activation"] for one in told["mixed"]["raised"]}
    assert "s1" in raised
    assert "r2" not in raised
    proto = onnx.load(str(tmp_path / "a.onnx"))
    kinds = {one.name: one.data_type for one in proto.graph.initializer if one.name.endswith("_zero_point")}
    assert {name for name, kind in kinds.items() if kind == TensorProto.UINT16} == {
        f"{name}_zero_point" for name in raised
    }
    assert proto.opset_import[0].version == 21
    judge = ["--metric", f"{tmp_path / 'metric.py'}:agree", "--min-metric"]
    done = CliRunner().invoke(command, [*said, *mixed, *judge, "1", "--out", str(tmp_path / "b.onnx")])
    assert json.loads(done.stdout)["mixed"]["reached"] == 1
    for wrong in (["--min-sqnr", "20"], [*mixed, *judge[:2]], [*mixed, *judge, "1", "--min-sqnr", "20"]):
        assert CliRunner().invoke(command, [*said, *wrong, "--out", str(tmp_path / "c.onnx")]).exit_code == 2


def test_what_is_raised_into_a_reshape_is_judged_before_it(made):
    """A Softmax of a set before 13, raised, ends in a Reshape."""
    assert ptq.judged(load(made)) == ("m4",)


def test_infinity_is_damage_in_weights_only(tmp_path):
    """Masks are infinite, and where a maximum starts from."""
    assert "spike" in load(net(tmp_path / "mask.onnx", inf=True)).constants
    with pytest.raises(FormatError, match="w3 holds NaN"):
        load(net(tmp_path / "damaged.onnx", nan=True))
