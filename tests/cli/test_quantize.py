"""`halve quantize`, `verify` and `inspect` as a person types them."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from halve.cli.main import cli
from tiny import llama


def halve(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def source(tmp_path):
    return llama.write(tmp_path / "source")


def test_quantize_verify_inspect(source, tmp_path):
    out = tmp_path / "out"
    done = halve("quantize", source, out, "--scheme", "nvfp4a16")
    assert done.exit_code == 0, done.output
    assert f"halve verify {out} --against {source}" in done.stdout
    proof = halve("verify", out, "--against", source, "--json")
    assert proof.exit_code == 0
    assert json.loads(proof.stdout)["ok"] is True
    assert "whole and in range" in halve("verify", out).stdout
    found = json.loads(halve("inspect", out, "--json").stdout)
    assert (found["layout"], found["element"]) == ("compressed-tensors", "fp4_e2m1")
    assert found["parameters"] == sum(w.size for w in llama.weights().values())
    assert "LlamaForCausalLM" in halve("inspect", out).stdout


def test_dry_run_tells_the_exact_size_and_writes_nothing(source, tmp_path):
    out = tmp_path / "out"
    promised = json.loads(halve("quantize", source, out, "--scheme", "w4a16", "--dry-run", "--json").stdout)
    assert not out.exists()
    assert promised["block_size"] == 128
    halve("quantize", source, out, "--scheme", "w4a16")
    assert (out / "model.safetensors").stat().st_size == promised["bytes"]
    table = halve("quantize", source, tmp_path / "other", "--scheme", "w4a16", "--dry-run").stdout
    assert "model.layers.0.mlp.down_proj.weight" in table
    assert "embedding" in table


def test_a_limit_of_memory_is_checked_before_anything_is_written(source, tmp_path):
    line = ["quantize", source, tmp_path / "out", "--scheme", "nvfp4a16", "--memory"]
    for last in (["1MiB"], ["1MiB", "--dry-run"]):
        done = halve(*line, *last)
        assert done.exit_code == 2
        assert "only 1MiB of memory are allowed" in done.stderr
        assert "the least that does" in done.stderr
        assert not (tmp_path / "out").exists()
    assert halve(*line, "4GiB", "--log", tmp_path / "log").exit_code == 0
    assert json.loads((tmp_path / "log").read_text().splitlines()[-1])["ok"] is True


def test_json_is_one_object(source, tmp_path):
    done = halve("quantize", source, tmp_path / "out", "--scheme", "fp8_dynamic", "--json")
    result = json.loads(done.stdout)
    assert result["quantized"] == 7 * llama.LAYERS
    assert result["bytes"] == (tmp_path / "out" / "model.safetensors").stat().st_size


def test_a_damaged_checkpoint_exits_1_with_a_list(source, tmp_path):
    halve("quantize", source, tmp_path / "out", "--scheme", "w8a8")
    file = tmp_path / "out" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    done = halve("verify", tmp_path / "out")
    assert done.exit_code == 1
    assert "sha256" in done.stdout
    assert halve("verify", tmp_path / "out", "--json").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--scheme", "nvfp4"], 2, "needs the statistics of activations"),
        (["--scheme", "fp8_static"], 2, "fp8_dynamic"),
        (["--scheme", "nvpf4a16"], 2, "nvfp4a16"),
        (["--scheme", "mxfp6_e2m3a16", "--layout", "compressed-tensors"], 2, "quark"),
        (["--scheme", "nvfp4a16", "--rule", "even"], 2, "scale rule"),
        (["--scheme", "nvfp4a16", "--ignore", "nothing"], 2, "names no tensor"),
        (["--scheme", "nvfp4a16", "--shard-size", "big"], 2, "not a size"),
        ([], 2, "--scheme"),
    ],
)
def test_wrong_requests(source, tmp_path, arguments, code, says):
    done = halve("quantize", source, tmp_path / "out", *arguments)
    assert done.exit_code == code
    assert says in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["missing", "org/missing@main/x", "weights.bin"])
def test_sources_that_are_none(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    if name.endswith(".bin"):
        (tmp_path / name).write_bytes(b"\x80\x04")
    done = halve("quantize", name, tmp_path / "out", "--scheme", "nvfp4a16")
    assert done.exit_code in (1, 2)
    assert done.stderr.startswith("error:")
    assert "hint:" in done.stderr


def test_nan_names_the_tensor_and_offers_a_way(tmp_path):
    weights = llama.weights()
    weights["model.layers.0.mlp.up_proj.weight"][3, 5] = np.nan
    source = llama.write(tmp_path / "source", weights)
    done = halve("quantize", source, tmp_path / "out", "--scheme", "fp8_dynamic")
    assert done.exit_code == 1
    assert "model.layers.0.mlp.up_proj.weight" in done.stderr
    assert "[3, 5]" in done.stderr
    assert "--on-nonfinite keep" in done.stderr
    kept = halve("quantize", source, tmp_path / "out", "--scheme", "fp8_dynamic", "--on-nonfinite", "keep")
    assert kept.exit_code == 0


def test_a_missing_tokenizer_is_a_warning_on_stderr(source, tmp_path):
    (source / "tokenizer.json").unlink()
    done = halve("quantize", source, tmp_path / "out", "--scheme", "w8a8", "--json")
    assert done.exit_code == 0
    assert "warning:" in done.stderr
    json.loads(done.stdout)


@pytest.mark.parametrize("command", ["quantize", "cast", "formats", "completion", "run", "demo"])
def test_help_shows_no_control_characters(command):
    shown = halve(command, "--help").stdout
    assert "\\b" not in shown
    assert "\b" not in shown
