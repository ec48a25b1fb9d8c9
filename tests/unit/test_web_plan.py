"""Data of the page Plan: what the command line says."""

import json
import shlex
from urllib.parse import urlencode

import pytest
from click.testing import CliRunner

pytest.importorskip("fastapi", reason="the extra `web` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `web` is not installed")
pytest.importorskip("uvicorn", reason="the extra `web` is not installed")

from halve.cli.main import cli
from halve.hardware import machines
from tiny import llama
from tiny.server import serving


@pytest.fixture(scope="module")
def client():
    with serving({}, pages=True) as client:
        yield client


@pytest.fixture(scope="module")
def ask(client):
    def ask(**query):
        status, body = client.request("GET", f"/api/plan?{urlencode(query)}")
        return status, json.loads(body)

    return ask


@pytest.mark.parametrize(
    ("asked", "command"),
    [
        ({"model": "Llama-3.1-8B", "hardware": "H100-SXM"}, "halve plan Llama-3.1-8B --hardware H100-SXM"),
        (
            {"model": "Qwen3-0.6B", "hardware": "RK3588,L4", "scheme": "w8a8", "context": 4096, "output": 100},
            "halve plan Qwen3-0.6B --hardware RK3588 --hardware L4 --scheme w8a8 --context 4k --output 100",
        ),
        (
            {"model": "Llama-3.1-70B", "context": 32768, "batch": 24, "ttft": 2.5, "tpot": 0.0503},
            "halve plan Llama-3.1-70B --context 32k --batch 24 --ttft 2.5s --tpot 0.0503s",
        ),
    ],
)
def test_the_page_and_its_command_line_say_the_same(ask, asked, command):
    status, found = ask(**asked)
    assert status == 200, found
    assert found["command"] == command
    printed = CliRunner().invoke(cli, [*shlex.split(command)[1:], "--json"], catch_exceptions=False)
    assert json.loads(printed.stdout) == found["answer"]
    assert {curve["machine"] for curve in found["curves"]} <= {one["machine"] for one in found["answer"]["options"]}


def test_a_batch_is_what_runs_at_once(ask):
    found = ask(model="Llama-3.1-8B", batch=24)[1]["answer"]
    assert {one["batch"] for one in found["options"]} == {24}
    assert all(24 % one["dp"] == 0 for one in found["options"])
    left = {one["machine"]: one["why"] for one in found["left"]}
    assert left["RK3588"] == "planned for one request at a time only"
    free = ask(model="Llama-3.1-8B", hardware="H100-SXM", scheme="fp8_dynamic")[1]["answer"]["options"][0]
    fixed = ask(model="Llama-3.1-8B", hardware="H100-SXM", scheme="fp8_dynamic", batch=free["batch"])[1]["answer"]
    assert fixed["options"][0] == free


def test_intervals_hold_what_they_are_of(ask):
    for one in ask(model="Qwen3-8B")[1]["answer"]["options"]:
        low, high = one["tokens_per_second_p10_p90"]
        assert low < one["tokens_per_second"] < high
        sequences = one["tokens_per_second"] * one["tpot_s"]
        assert [sequences / s for s in reversed(one["tpot_p10_p90_s"])] == pytest.approx([low, high])
        assert one["memory_bytes"]["total"] <= one["device_bytes"]


def test_a_model_on_this_disk(ask, tmp_path):
    folder = llama.write(tmp_path / "a model")
    status, found = ask(model=str(folder), hardware="L4")
    assert status == 200
    assert found["command"] == f"halve plan '{folder}' --hardware L4"
    assert found["answer"]["model"]["stored_bytes"] > 0
    with serving({}, pages=True, local=False) as remote:
        query = urlencode({"model": str(folder)})
        assert remote.request("GET", f"/api/plan?{query}")[0] == 404
        assert remote.request("GET", "/api/plan?model=Qwen3-8B&hardware=L4")[0] == 200


def test_choices_are_the_tables(client):
    status, body = client.request("GET", "/api/plan/choices")
    found = json.loads(body)
    assert status == 200
    by_name = {machine["name"]: machine for machine in found["machines"]}
    assert set(by_name) == set(machines())
    assert by_name["H100-SXM"]["formats"]["fp8"]["level"] == "native"
    assert by_name["H100-SXM"]["schemes"]["nvfp4"] == "emulated"
    assert by_name["B200"]["schemes"]["nvfp4"] == "native"
    assert by_name["RK3588"]["schemes"]["fp8_dynamic"] == "absent"
    assert {"Llama-3.1-8B", "Qwen3-0.6B"} <= {model["name"] for model in found["models"]}


@pytest.mark.parametrize(
    ("asked", "status", "word"),
    [
        ({}, 400, "model"),
        ({"model": "Lama-3.1-8B"}, 404, "Llama-3.1-8B"),
        ({"model": "Llama-3.1-8B", "hardware": "H1000"}, 404, "H100"),
        ({"model": "Llama-3.1-8B", "scheme": "nvfp5"}, 404, "nvfp4"),
        ({"model": "Llama-3.1-8B", "context": 0}, 400, "context"),
        ({"model": "Llama-3.1-8B", "context": 10, "output": 10}, 400, "larger than the output"),
        ({"model": "Llama-3.1-405B", "hardware": "RK3588"}, 400, "would fit"),
        ({"model": "Llama-3.1-8B", "tpot": "nan"}, 400, "tpot"),
        ({"model": "Llama-3.1-8B", "tpot": 1e-9}, 400, "nearest"),
        ({"model": "Llama-3.1-8B", "batch": -1}, 400, "batch"),
        ({"model": "Llama-3.1-8B", "hardware": "RK3588", "batch": 2}, 400, "2 requests at once"),
        ({"model": "x" * 600}, 400, "model"),
        ({"model": "https://example.org/model"}, 400, "halve plan https://example.org/model"),
        ({"model": "memory://model/config.json"}, 400, "ask nothing of others"),
        ({"model": "a\x00b"}, 404, "a"),
    ],
)
def test_wrong_questions_are_answered_in_words(ask, asked, status, word):
    found, body = ask(**asked)
    assert found == status, body
    assert word in body["error"]["message"] + body["error"]["hint"]
