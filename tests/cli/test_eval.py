"""`halve eval` as a person types it."""

import json

import pytest
from click.testing import CliRunner

import halve
from halve.cli import render
from halve.cli.main import cli
from tiny import speaker


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("eval")
    halve.quantize(speaker.write(root / "base"), root / "out", "w8a8")
    (root / "text.txt").write_text(speaker.TEXT)
    return root


@pytest.fixture
def run(made, monkeypatch):
    monkeypatch.chdir(made)
    few = ["--text", "text.txt", "--windows", "2", "--window", "64"]
    return lambda *args, **options: CliRunner().invoke(cli, ["eval", *args, *few], **options)


def test_perplexity_alone(run):
    done = run("out")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("out: w8a8, ")
    assert "bits per weight" in done.stdout
    assert "text: text.txt, sha256" in done.stdout
    assert "worst layers" not in done.stdout
    assert done.stderr == ""


def test_against_a_base(run):
    done = run("out", "--against", "base", "--activations", "--kv", "fp8")
    lines = [line.split("  ")[0] for line in done.stdout.splitlines()]
    for start in ("base", "weights", "weights + activations + KV", "worst layers"):
        assert start in lines
    assert "accumulated in FP32" in done.stdout
    assert "model.layers." in done.stdout


def test_json(run):
    found = json.loads(run("out", "--against", "base", "--json").stdout)
    assert {"scheme", "bytes", "bpw", "ppl", "kld", "same_top", "tokens_per_s", "layers", "texts"} <= found.keys()
    assert found["kld"] > 0


def test_html_asks_the_model_too(run, made, tmp_path):
    out = tmp_path / "report.html"
    done = run("out", "--against", "base", "--html", str(out))
    assert done.exit_code == 0, done.output
    assert f"report: {out}" in done.stderr
    assert "> What is a floating-point number?" in done.stdout
    assert "What w8a8 costs" in out.read_text()


def test_several_checkpoints_share_a_base_and_a_report(run, made, tmp_path):
    halve.quantize(made / "base", made / "small", "mxfp4a16")
    done = run("out", "small", "--against", "base", "--html", str(tmp_path / "r.html"))
    assert done.exit_code == 0, done.output
    titles = [line.split(",")[0] for line in done.stdout.splitlines() if line.startswith(("out: ", "small: "))]
    assert titles == ["out: w8a8", "small: mxfp4a16"]
    assert "What w8a8 and mxfp4a16 cost" in (tmp_path / "r.html").read_text()
    found = json.loads(run("out", "small", "--against", "base", "--json").stdout)
    assert [one["scheme"] for one in found] == ["w8a8", "mxfp4a16"]
    assert found[0] | {"seconds": 0, "eval_tokens_per_s": 0} == json.loads(
        run("out", "--against", "base", "--json").stdout
    ) | {"seconds": 0, "eval_tokens_per_s": 0}


def test_a_prompt(run):
    done = run("out", "--prompt", "Who are you?")
    assert "> Who are you?" in done.stdout


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["missing"], 1, "no such file or folder"),
        (["out", "--text", "missing.txt"], 2, "missing.txt: No such file"),
        (["out", "--activations", "--scheme", "nvfp4"], 2, "they are not nvfp4's"),
        (["out", "--scheme", "nvfp5"], 2, "unknown scheme"),
        (["out", "--html", "no/such/folder.html"], 1, "there is no folder no/such"),
        (["out", "--kv", "int2"], 2, "'int2' is not"),
    ],
)
def test_mistakes(run, args, code, message):
    done = run(*args)
    assert done.exit_code == code, done.output
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_a_report_that_cannot_be_written_is_found_before_the_work(run, monkeypatch):
    monkeypatch.setattr("halve.evaluate.evaluator.evaluate", lambda *_, **__: pytest.fail("the work has begun"))
    assert run("out", "--html", "no/such/folder.html").exit_code == 1


def test_a_terminal_is_told_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with render.counted("windows") as progress:
        progress("w8a8", 1, 2)
    said = capsys.readouterr().err
    assert "w8a8: 1 of 2 windows" in said
    assert said.endswith("\r\x1b[K")
