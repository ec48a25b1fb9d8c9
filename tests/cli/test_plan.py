import json

import pytest


@pytest.fixture
def run():
    from click.testing import CliRunner

    from halve.cli.main import cli

    def call(*arguments):
        return CliRunner().invoke(cli, list(arguments))

    return call


def test_plan_prints_a_table_and_the_command(run):
    result = run("plan", "Llama-3.1-8B", "--hardware", "H100", "--ttft", "2s", "--tpot", "50ms", "--context", "32k")
    assert result.exit_code == 0, result.output
    assert "H100-SXM" in result.output
    assert "halve quantize meta-llama/Meta-Llama-3.1-8B" in result.output


def test_plan_prints_json(run):
    content = json.loads(run("plan", "gpt-oss-20b", "--hardware", "b200", "--json").output)
    assert content["options"][0]["machine"] == "B200"
    assert content["request"]["prompt"] == 8192


def test_plan_writes_a_page(run, tmp_path):
    pytest.importorskip("plotly")
    result = run("plan", "Qwen3-8B", "--hardware", "H200", "--html", str(tmp_path / "plan.html"))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "plan.html").stat().st_size > 1e6


def test_plan_trains(run):
    result = run("plan", "Llama-3.1-8B", "--train", "--hardware", "B200")
    assert "BF16 mixed" in result.output
    assert run("plan", "Llama-3.1-8B", "--train", "--tpot", "5ms").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("plan", "Llama-3.1-8"), "Llama-3.1-8B"),
        (("plan", "DeepSeek-R1", "--hardware", "rk3588"), "would fit"),
        (("plan", "Llama-3.1-8B", "--tpot", "soon"), "write 2s or 50ms"),
        (("plan", "Llama-3.1-8B", "--context", "many"), "write 4096 or 32k"),
        (("hardware", "H10O"), "H100"),
    ],
)
def test_wrong_requests_end_with_2_and_a_hint(run, arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.output + (result.stderr if result.stderr_bytes else "")


def test_hardware(run):
    assert "VR200-NVL72 (preliminary)" in run("hardware").output
    one = run("hardware", "b300").output
    assert "exp2_per_clk_sm" in one
    assert "https://" in one
    assert "measured now" in run("hardware", "this").output
    assert "3.94" in run("hardware", "--claims").output
    assert len(json.loads(run("hardware", "--json").output)) > 40
