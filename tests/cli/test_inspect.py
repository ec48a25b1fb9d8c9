"""`halve inspect` as a person types it."""

import builtins
import json

import pytest
from click.testing import CliRunner

from halve.cli.main import cli
from tiny import gguf_models, llama


def halve(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def source(tmp_path):
    return llama.write(tmp_path / "source")


@pytest.fixture
def out(source, tmp_path):
    assert halve("quantize", source, tmp_path / "out", "--scheme", "nvfp4a16").exit_code == 0
    return tmp_path / "out"


def test_a_list_of_tensors(out):
    found = json.loads(halve("inspect", out, "--json").stdout)
    assert (found["layout"], found["scheme"], found["element"]) == ("compressed-tensors", "nvfp4a16", "fp4_e2m1")
    assert found["parameters"] == sum(w.size for w in llama.weights().values())
    assert found["quantized_bpw"] == pytest.approx(4.5, abs=0.02)
    shown = halve("inspect", out).stdout
    assert "LlamaForCausalLM" in shown
    assert "compressed-tensors, nvfp4a16" in shown
    assert "embedding" in shown


def test_plain_numbers(source):
    assert "dense, not quantized" in halve("inspect", source).stdout
    assert json.loads(halve("inspect", source, "--json").stdout)["scheme"] is None


def test_values(out, source):
    shown = halve("inspect", out, "--values").stdout
    for column in ("amax/rms", "entropy, bits", "zero blocks", "tensor scale"):
        assert column in shown
    assert "entropy" not in halve("inspect", source, "--values").stdout
    found = json.loads(halve("inspect", out, "--values", "--json", "--threads", "2").stdout)
    weight = next(t for t in found["tensors"] if t["quantized"])
    assert sum(weight["codes"]["histogram"]) == weight["spread"]["count"]
    assert 3 < weight["codes"]["entropy_bits"] < 4


def test_a_page(out, tmp_path):
    done = halve("inspect", out, "--html", tmp_path / "page.html", "--json")
    assert done.exit_code == 0
    assert f"page: {tmp_path / 'page.html'}" in done.stderr
    assert "spread" in json.loads(done.stdout)["tensors"][0]
    assert "What is in out" in (tmp_path / "page.html").read_text()


def test_a_page_that_cannot_be_made(out, tmp_path, monkeypatch):
    done = halve("inspect", out, "--html", tmp_path / "no" / "page.html")
    assert done.exit_code == 1
    assert "there is no folder" in done.stderr
    assert done.stdout == ""
    real = builtins.__import__

    def missing(name, *arguments, **options):
        if name.partition(".")[0] == "plotly":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    done = halve("inspect", out, "--html", tmp_path / "page.html")
    assert "halve[report]" in done.stderr
    assert halve("inspect", out, "--values").exit_code == 0


def test_how_a_gguf_file_stores_its_blocks(tmp_path):
    path = tmp_path / "tiny.gguf"
    gguf_models.TinyModel(encoding="Q4_1").write(path)
    found = json.loads(halve("inspect", path, "--json").stdout)
    assert found["layout"] == "gguf"
    weight = next(t for t in found["tensors"] if t["name"].endswith("0.mlp.down_proj.weight"))
    assert (weight["bpw"], weight["quantized"]) == (5.0, True)
    assert "Q4_1" in weight["stored"][0]


def test_a_damaged_checkpoint_is_no_traceback(out):
    file = out / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    done = halve("inspect", out, "--values")
    assert done.exit_code == 1
    assert done.stderr.startswith("error:")
    assert "hint:" in done.stderr
