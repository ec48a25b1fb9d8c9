import json

import numpy as np
import pytest


@pytest.fixture
def run():
    from click.testing import CliRunner

    from halve.cli.main import cli

    def call(*arguments):
        return CliRunner().invoke(cli, ["silicon", *arguments])

    return call


def test_table_stands_beside_the_rule_and_the_literature(run):
    result = run("table")
    assert result.exit_code == 0, result.output
    assert "rule of thumb" in result.output
    assert "1/64" in result.output
    assert "Horowitz" in result.output
    assert result.output.count("no wires") == 2


def test_table_prints_json(run):
    rows = json.loads(run("table", "--unit", "multiplier", "--json").output)
    assert {row["unit"] for row in rows} == {"multiplier"}
    assert {"unit", "format", "area", "depth", "energy", "mismatches"} <= set(rows[0])


def test_table_says_which_format_to_build(run, tmp_path):
    assert "dB/NAND2" in run("table", "--quality").output
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).standard_normal(8192))
    rows = json.loads(run("table", "--quality", "--data", str(tmp_path / "mine.npy"), "--json").output)
    assert any(row["best"] for row in rows)
    assert {row["format"] for row in rows} >= {"fp4_e2m1", "e3m4", "int8"}


def test_plot_writes_a_page(run, tmp_path):
    pytest.importorskip("plotly")
    result = run("plot", str(tmp_path / "gates.html"))
    assert result.exit_code == 0, result.output
    content = (tmp_path / "gates.html").read_text()
    assert "no wires" in content
    assert "A tile of 16 products" in content


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("measure", "e9m2"), "2 to 8 exponent bits"),
        (("measure", "fp17"), "fp16"),
        (("measure", "fp16", "--unit", "mak"), "mac"),
        (("measure", "fp16", "--unit", "fixed_mac"), "use mac"),
        (("verilog", "nf4"), "index into a list"),
        (("table", "--quality", "--data", "none.npy"), "none.npy"),
        (("measure", "fp16", "--liberty", "none.lib"), "none.lib"),
    ],
)
def test_wrong_requests_end_with_a_hint(run, arguments, words):
    result = run(*arguments)
    assert result.exit_code in (1, 2)
    assert "error:" in result.output
    assert "hint:" in result.output
    assert words in result.output
