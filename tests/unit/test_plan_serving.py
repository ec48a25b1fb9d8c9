"""Plans: everything fits, limits hold, money adds up, impossible requests are told what would do."""

import json
import time
from dataclasses import replace

import pytest

import halve
from halve import schemes
from halve.errors import PlanError, UnknownNameError
from halve.evaluate import plan_page
from halve.evaluate.plan_page import compare
from halve.hardware import find, machines
from halve.hardware.number import Number
from halve.models import catalog
from halve.plan.claims import claims
from halve.plan.cost import cost
from halve.plan.frontier import frontier
from halve.plan.parallel import Parallel, candidates
from halve.plan.precision import Precision, arithmetic
from halve.plan.request import Request
from halve.plan.search import precisions, search
from halve.plan.subject import subject
from halve.plan.train import MFU, REGIMES, activation_bytes, operations, train
from tiny import llama

LLAMA, H100 = catalog.find("Llama-3.1-8B"), find("H100")


@pytest.fixture(scope="module")
def full():
    return halve.plan("Llama-3.1-8B", ttft=2, tpot=0.05, context=32768)


def test_options_fit_and_hold_the_limits(full):
    assert len(full.options) > 20
    for option in full.options:
        assert option.memory.total <= option.capacity
        assert option.tpot <= 0.05
        assert option.ttft <= 2
        assert option.parallel.tp <= option.machine.devices
        assert option.interval[0] < 1 < option.interval[1]
        assert option.binding


def test_cheapest_first_then_what_has_no_price(full):
    prices = [o.cost.mixed and (o.cost.mixed.low + o.cost.mixed.high) / 2 for o in full.options]
    known = [price for price in prices if price is not None]
    assert known == sorted(known)
    assert prices[: len(known)] == known


def test_every_machine_is_an_option_or_left_with_a_reason(full):
    assert {o.machine.name for o in full.options} | {name for name, _ in full.left} == set(machines())
    assert all(why for _, why in full.left)


def test_full_search_takes_less_than_a_second():
    search(LLAMA, machines().values(), Request(prompt=1000, output=10))  # tables are read
    for name in ("Llama-3.1-8B", "DeepSeek-R1", "Kimi-K2"):
        began = time.process_time()
        search(catalog.find(name), machines().values(), Request(prompt=31744, output=1024, ttft=2, tpot=0.05))
        assert time.process_time() - began < 1


def test_plans_are_json(full):
    content = json.loads(json.dumps(full.to_json(), allow_nan=False))
    assert content["options"][0]["machine"] == full.options[0].machine.name
    assert all(len(row) == len(full.columns) for row in full.rows())


def test_the_command_makes_what_is_planned():
    best = halve.plan("meta-llama/Llama-3.1-8B", hardware="H100", scheme=["nvfp4"])
    expected = "halve quantize meta-llama/Meta-Llama-3.1-8B Meta-Llama-3.1-8B-nvfp4 --scheme nvfp4 --calibrate builtin"
    assert best.command == expected
    assert halve.plan("Llama-3.1-8B", hardware="H100", scheme=["bf16"]).command == ""
    assert "--layout gguf" in halve.plan("Llama-3.1-8B", hardware="M2-Ultra", scheme=["int4_g32"]).command
    assert halve.plan("Qwen3-0.6B", hardware="rk3588").command.endswith(
        "--scheme w8a8 && halve convert Qwen3-0.6B-w8a8 Qwen3-0.6B-w8a8-bf16 --layout dense --scheme bf16"
    )


def test_impossible_requests_are_told_what_would_fit():
    with pytest.raises(PlanError, match="fits nowhere on RTX-4090") as error:
        halve.plan("DeepSeek-R1", hardware="RTX-4090")
    assert "would fit: " in error.value.hint
    assert " x " in error.value.hint
    with pytest.raises(PlanError, match="meets these limits nowhere") as error:
        halve.plan("Llama-3.1-70B", hardware="H100", tpot=1e-5)
    assert "nearest: H100-SXM" in error.value.hint
    with pytest.raises(UnknownNameError):
        halve.plan("Llama-3.1-8B", hardware="H10O")
    with pytest.raises(UnknownNameError):
        halve.plan("Llama-3.1-8B", scheme=["fp3"])
    for wrong in ({"context": 10, "output": 10}, {"ttft": -1}, {"utilisation": 0}):
        with pytest.raises(PlanError):
            halve.plan("Llama-3.1-8B", hardware="H100", **wrong)


def test_more_bandwidth_is_never_dearer():
    request = Request(prompt=1000, output=1000)
    value = H100.bandwidth_gbs.value * 1.3
    faster = replace(H100, bandwidth_gbs=Number(value, value, "test"))
    for name in ("Llama-3.1-8B", "gpt-oss-120b"):
        base, better = (search(catalog.find(name), [m], request) for m in (H100, faster))
        for option in base:
            same = next(o for o in better if o.precision == option.precision)
            assert same.cost.mixed.low <= option.cost.mixed.low


def test_trillions_of_weights_take_boards_and_racks():
    plan = halve.plan("Kimi-K2", hardware=["H100", "GB200"], scheme=["fp8_dynamic"])
    nodes = {option.machine.name: option.nodes for option in plan.options}
    assert nodes["H100-SXM"] > 1
    assert nodes["GB200-NVL72"] == 1


def test_money_and_energy():
    found = cost(H100, read=1e-5, written=1e-3, prompt=1000, output=1000, utilisation=0.5)
    assert found.written.low == pytest.approx(1.99 * 1e-3 * 1e6 / 3600 / 0.5)
    assert found.written.high == pytest.approx(found.written.low * 5.0 / 1.99)
    assert found.mixed.low == pytest.approx((found.read.low + found.written.low) / 2)
    assert found.joules == pytest.approx(0.7)
    assert cost(find("VR200"), read=1, written=1, prompt=1, output=1).mixed is None


def test_cost_is_what_throughput_says(full):
    for option in full.options:
        if option.cost.mixed is not None and option.machine.kind == "datacenter":
            seconds = (32768 - 1024 + 1024) / 1024 * option.cost.mixed.low
            by_rate = option.machine.usd_per_hour.low / 3600 / 0.6 / option.per_device * 1e6
            assert seconds == pytest.approx(by_rate, rel=1e-6)


def test_precisions_are_those_that_the_machine_multiplies():
    assert [p.scheme.name for p in precisions(find("B200"))] == ["bf16", "fp8_dynamic", "nvfp4"]
    assert [p.scheme.name for p in precisions(H100)] == ["bf16", "fp8_dynamic", "w4a16"]
    assert [p.scheme.name for p in precisions(find("MI355X"))] == ["bf16", "fp8_dynamic", "mxfp4"]
    assert [p.scheme.name for p in precisions(find("RK3588"))] == ["w8a8"]
    assert [p.scheme.name for p in precisions(find("RK3576"))] == ["w8a8", "w4a16"]
    assert arithmetic(H100, schemes.get("nvfp4")) == "bf16"
    assert arithmetic(find("B200"), schemes.get("nvfp4")) == "nvfp4"
    assert arithmetic(find("B200"), schemes.get("nvfp4a16")) == "bf16"


def test_cuts():
    cuts = list(candidates(LLAMA, H100))
    assert Parallel() in cuts
    assert Parallel(tp=8) in cuts
    assert all(p.tp <= 8 and p.dp == 1 for p in cuts)
    assert list(candidates(LLAMA, find("RTX-4090"))) == [Parallel()]
    assert "larger than the 8 devices" in Parallel(tp=16).why_impossible(LLAMA, H100)
    assert "divide" in Parallel(tp=3).why_impossible(LLAMA, H100)
    assert "layers" in Parallel(pp=33).why_impossible(LLAMA, H100)
    assert Parallel(tp=2, pp=4).name == "tp2 pp4"


def test_models_on_disk(tmp_path):
    llama.write(tmp_path / "model")
    found = subject(tmp_path / "model")
    assert found.stored == found.shape.count * 2
    assert subject(tmp_path / "model" / "config.json").stored is None
    config = llama.decoder_config("llama", hidden_size=128, intermediate_size=256, head_dim=32)
    source = llama.write_decoder(tmp_path / "decoder", config, llama.decoder_weights(config))
    halve.quantize(source, tmp_path / "out", "int8_g32", layout="gguf", threads=1)
    file = next((tmp_path / "out").glob("*.gguf"))
    assert subject(file).stored < subject(source).stored
    assert subject(file).shape.layers == subject(source).shape.layers
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.json").write_text(json.dumps(llama.config()))
    assert subject(tmp_path / "config").shape.layers == found.shape.layers


def test_frontiers_fall_and_compare():
    curve = frontier(catalog.find("DeepSeek-R1"), find("B200"), Precision(schemes.get("nvfp4"), "fp8"), _REQUEST)
    assert (curve.per_user[1:] < curve.per_user[:-1]).all()
    assert (curve.per_device[1:] > curve.per_device[:-1]).all()
    assert curve.at(1e9) is None
    ratios = [ratio for *_, ratio in compare(halve.plan("DeepSeek-R1", hardware="GB200")).rows() if ratio]
    assert ratios
    assert min(ratios) > 1


_REQUEST = Request(prompt=1024, output=1024)


def test_page(full, tmp_path):
    pytest.importorskip("plotly")
    plan_page.write(tmp_path / "plan.html", full)
    text = (tmp_path / "plan.html").read_text()
    for words in (
        "What a million tokens cost",
        "Throughput over interactivity",
        "Rubin against Blackwell",
        full.command,
    ):
        assert words in text
    assert "http-equiv" in text  # nothing is loaded


def test_claims_come_from_the_tables():
    said = dict(claims().rows())
    assert "3.94 (NVFP4) or 3.72 GB (MXFP4)" in said["A 7B model in FP4 is 3.5 GB"]
    assert said["Rubin does 50 PFLOPS of NVFP4"].startswith("dense 35 PFLOPS")
    assert len(claims().to_json()) == len(said)


def test_training_states_are_those_of_the_papers():
    states = {regime.name: regime.states for regime in REGIMES}
    assert states["BF16 mixed"] == states["FP32"] == 16
    assert states["FP8"] == 13
    plan = train("Llama-3.1-8B", hardware="B200", tokens=15e12)
    by_name = {option.regime.name: option for option in plan.options}
    assert by_name["BF16 mixed"].states == LLAMA.count * 16
    hours = [by_name[name].device_hours for name in ("FP32", "BF16 mixed", "FP8", "NVFP4")]
    assert hours == sorted(hours, reverse=True)
    assert by_name["BF16 mixed"].device_hours == pytest.approx(6 * 8e9 * 15e12 / 2250e12 / MFU / 3600, rel=0.1)


def test_training_says_what_is_not_known():
    options = {o.regime.name: o for o in train("Llama-3.1-8B", hardware="VR200").options}
    assert options["FP8"].device_hours is None
    assert "bf16 rate" in options["FP8"].why
    assert "matrices alone take" in options["NVFP4"].why
    hopper = {o.regime.name: o for o in train("Llama-3.1-8B", hardware="H100").options}
    assert hopper["NVFP4"].device_hours is None
    assert "does not multiply nvfp4" in hopper["NVFP4"].why
    with pytest.raises(PlanError):
        train("Llama-3.1-8B", mfu=2)


def test_training_arithmetic():
    narrow, wide = operations(LLAMA, 1.0, 1)
    assert narrow + wide == pytest.approx(6 * LLAMA.active, rel=1e-3)
    saved = [activation_bytes(LLAMA, regime, 4096) for regime in REGIMES]
    assert saved == sorted(saved, reverse=True)
    assert activation_bytes(LLAMA, REGIMES[1], 8192) == pytest.approx(2 * saved[1])
