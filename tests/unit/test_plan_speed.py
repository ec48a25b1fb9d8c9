"""Speed: units, directions that cannot be wrong, softmax units, points of all kinds, and factors that the data gave."""

from dataclasses import replace

import numpy as np
import pytest

from halve import schemes
from halve.hardware import find
from halve.hardware.number import Number
from halve.models import catalog
from halve.plan import fit
from halve.plan.factors import VARYING, fitted, prefill_seconds, share, step_parts, step_seconds
from halve.plan.points import Left, Point, point
from halve.plan.precision import Precision
from halve.plan.roofline import TERMS, Cut, decode, prefill

H100, B200, B300 = find("H100"), find("B200"), find("B300")
LLAMA, DEEPSEEK = catalog.find("Llama-3.1-8B"), catalog.find("DeepSeek-R1")
BF16, FP8, NVFP4 = (Precision(schemes.get(name)) for name in ("bf16", "fp8_dynamic", "nvfp4"))
FACTORS = fitted().factors("online", "vLLM", "hopper", "fp8_dynamic")
ROW = {
    "model": "Llama-3.1-8B",
    "gpu": "H100-SXM",
    "tp": "1",
    "pp": "1",
    "dp": "1",
    "engine": "vllm 0.19.0",
    "precision": "gemm:fp8 moe:fp8",
    "isl": "1024",
    "osl": "128",
    "concurrency": "8",
    "scenario": "online_fixed_concurrency",
    "value": "800",
    "ttft_ms": "50",
    "tpot_ms": "10",
}


def cut(tp=1, pp=1, dp=1):
    return Cut(*(np.array([float(n)]) for n in (tp, pp, dp)))


def step(shape=LLAMA, machine=H100, *, precision=BF16, batch=1.0, context=1000.0, where=None):
    work = decode(shape, machine, precision, batch=np.array([batch]), context=np.array([context]), cut=where or cut())
    return float(step_seconds(work, FACTORS)[0])


def faster(machine, factor):
    value = machine.bandwidth_gbs.value * factor
    return replace(machine, bandwidth_gbs=Number(value, value, "test"))


def test_the_floor_of_decoding_is_reading_the_weights_once():
    work = decode(LLAMA, H100, BF16, batch=np.array([1.0]), context=np.array([1.0]), cut=cut())
    read = (LLAMA.count - LLAMA.vocab * LLAMA.hidden) * 2 / 3350e9  # of the embedding one row
    assert work.memory.sum() == pytest.approx(read, rel=1e-3)
    assert work.compute.sum() == pytest.approx(2 * LLAMA.active / 989e12, rel=1e-2)


def test_prefilling_is_two_operations_a_weight_and_token():
    work = prefill(LLAMA, H100, BF16, tokens=np.array([2048.0]), cut=cut())
    linear = work.compute[[TERMS.index("projections"), TERMS.index("mlp")]].sum()
    weights = LLAMA.count - 2 * LLAMA.vocab * LLAMA.hidden
    assert linear == pytest.approx(2 * weights * 2048 / 989e12, rel=1e-3)


def test_experts_are_read_as_often_as_they_are_chosen():
    experts = TERMS.index("experts")

    def read(batch):
        work = decode(DEEPSEEK, B200, FP8, batch=np.array([batch]), context=np.array([1.0]), cut=cut(dp=8))
        return float(work.memory[experts, 0])

    assert read(1e6) == pytest.approx(58 * 256 * 3 * 7168 * 2048 / 8 / 7700e9, rel=1e-3)
    assert read(0.125) == pytest.approx(read(1.0), rel=1e-9)  # a group has at least one sequence
    assert read(1.0) < read(2.0) < 2 * read(1.0)


@pytest.mark.parametrize("shape", ["Llama-3.1-8B", "DeepSeek-R1", "gpt-oss-120b", "Qwen3.5-397B-A17B"])
@pytest.mark.parametrize("batch", [1.0, 64.0])
def test_directions(shape, batch):
    shape = catalog.find(shape)
    base = step(shape, batch=batch)
    assert step(shape, faster(H100, 1.5), batch=batch) <= base
    assert step(shape, precision=FP8, batch=batch) <= base
    assert step(shape, batch=batch * 2) >= base
    assert step(shape, batch=batch, context=4000.0) >= base


def test_sparse_rates_and_foreign_formats_do_not_help():
    large = {"batch": 4096.0, "context": 1.0}
    assert step(precision=NVFP4, **large) == pytest.approx(step(precision=BF16, **large), rel=0.05)  # expanded
    assert step(machine=B200, precision=NVFP4, **large) < step(machine=B200, precision=FP8, **large)


def test_softmax_units_show():
    tokens = np.array([131072.0])
    found = {m.name: prefill(LLAMA, m, FP8, tokens=tokens, cut=cut()).exponentials.sum() for m in (B200, B300)}
    assert found["B200"] == pytest.approx(2.14 * found["B300"], rel=0.01)  # 5 and 10.7 T/s


def test_parts_add_up_and_no_share_is_above_one():
    work = decode(DEEPSEEK, B200, NVFP4, batch=np.array([8.0]), context=np.array([4000.0]), cut=cut(tp=8))
    parts = step_parts(work, FACTORS)
    assert float(sum(parts.values())[0]) == pytest.approx(float(step_seconds(work, FACTORS)[0]))
    assert parts["links"][0] > 0
    assert share(np.array([0.3, 1e3])) == pytest.approx([0.3, 1.0], rel=0.01)
    assert float(step_seconds(work, FACTORS)[0]) > work.memory.sum()


def test_points_are_read_in_our_words():
    found = point(ROW, "a")
    assert isinstance(found, Point)
    assert (found.kind, found.engine, found.measured) == ("online", "vLLM", 0.010)
    assert found.precision.scheme.name == "fp8_dynamic"
    experts_only = point(ROW | {"model": "gpt-oss-20b", "precision": "w:mxfp4 a:bf16/fp8?"}, "b")
    assert experts_only.precision.weight_bits("attention") == 16
    assert experts_only.precision.weight_bits("expert") == 4.25


@pytest.mark.parametrize(
    ("change", "why", "impossible"),
    [
        ({"model": "Llama-9"}, "unknown model", False),
        ({"gpu": "H900"}, "unknown machine", False),
        ({"tp": "?"}, "how the model was cut", False),
        ({"precision": "w:fp3"}, "unknown precision", False),
        ({"tp": "16"}, "tp 16 is larger than the 8 devices", True),
        ({"concurrency": "0"}, "no sequence ran", True),
        ({"tpot_ms": "nan"}, "no finite number", False),
        ({"osl": "0"}, "no token was written", True),
        ({"isl": ""}, "could not convert", False),
        ({"gpu": "RV1126B"}, "bandwidth of RV1126B is not known", False),
    ],
)
def test_rows_that_are_not_predicted_say_why(change, why, impossible):
    found = point(ROW | change, "row")
    assert isinstance(found, Left)
    assert why in found.why
    assert found.impossible == impossible


def test_factors_come_from_data():
    found = fitted()
    assert found.about["made_by"] == "python -m halve.plan.fit"
    assert set(found.everywhere) == set(fit._START)
    assert all(set(values) == set(VARYING) for values in found.levels.values())
    for low, high in found.intervals.values():
        assert low < 1 < high
    narrow, wide = found.interval("online", "H100-SXM"), found.interval("online", "VR200-NVL72")
    assert wide[0] <= narrow[0] < narrow[1] <= wide[1]
    assert wide[1] / wide[0] > narrow[1] / narrow[0]


def test_fitting_finds_factors_that_made_the_points(tmp_path):
    points = [
        point(ROW | {"concurrency": str(c), "isl": str(i), "gpu": g}, f"{c} {i} {g}")
        for c in (1, 4, 16, 64)
        for i in (128, 1024, 8192)
        for g in ("H100-SXM", "H200-SXM", "B200")
    ]
    problem = fit.Problem.of(points)
    truth = fit.solve(problem, np.zeros(len(points), bool) | (np.arange(len(points)) < 0))
    truth[list(fit._START).index("bandwidth")] = np.log(0.5)
    made = [
        replace(p, measured=float(p.measured * np.exp(r)))
        for p, r in zip(points, problem.residuals(truth), strict=True)
    ]
    again = fit.Problem.of(made)
    assert np.median(np.abs(again.residuals(fit.solve(again, np.ones(len(made), bool))))) < 0.02


def test_the_first_token_waits_for_others():
    first = fitted().first
    alone = np.array([0.1, 0.2])
    assert (first.time(alone, np.array([8.0, 8.0])) > first.time(alone, np.array([1.0, 1.0]))).all()
    assert first.time(alone, np.array([1.0, 1.0]))[0] > alone[0]
    assert fitted().intervals["first"][0] < 1 < fitted().intervals["first"][1]
    assert point(ROW, "a").ttft == 0.05
    assert point(ROW | {"scenario": "single_stream"}, "a").ttft == 0


def test_prefill_is_positive():
    work = prefill(LLAMA, H100, FP8, tokens=np.array([100.0]), cut=cut(tp=2))
    assert prefill_seconds(work, FACTORS)[0] > 0
