import json

import pytest
from click.testing import CliRunner

from halve import layouts
from halve.cli.main import cli
from halve.schemes import SCHEMES


def run(*args):
    return CliRunner().invoke(cli, ["schemes", *args])


def test_table_has_a_row_for_every_scheme():
    lines = run().stdout.splitlines()
    assert [line.split()[0] for line in lines[2 : 2 + len(SCHEMES)]] == list(SCHEMES)
    head = lines[0]
    for column in ("element", "block", "scale", "bpw", "layouts", "activations", "calibration", "about"):
        assert column in head


def test_json_says_which_layout_holds_which_scheme():
    found = {row["name"]: row for row in json.loads(run("--json").stdout)}
    assert list(found) == list(SCHEMES)
    for name, row in found.items():
        for layout in layouts.layouts().values():
            assert (layout.name in row["layouts"]) == (not layout.supports(SCHEMES[name]).refused)
            assert (layout.name in row["refusals"]) != (layout.name in row["layouts"])
    assert found["nvfp4"]["needs_calibration"]
    assert not found["nvfp4a16"]["needs_calibration"]
    assert found["nvfp4a16"]["bpw"] == 4.5
    assert found["fp8_block"]["weight"]["block_size"] == [128, 128]
    assert found["w4a16"]["block_sizes"] == [128, 64, 32]
    assert found["bf16"]["scale_rules"] == []
    assert "compressed-tensors" in found["fp8_dynamic"]["layouts"]


@pytest.mark.parametrize("name", SCHEMES)
def test_one_scheme(name):
    result = run(name)
    assert result.exit_code == 0, result.stderr
    for layout in layouts.layouts():
        assert f"layout {layout}" in result.stdout
    assert json.loads(run(name, "--json").stdout)["name"] == name


def test_one_scheme_in_words():
    text = " ".join(run("nvfp4").stdout.split())
    assert "weights fp4_e2m1, a ue4m3 + tensor scale per 16" in text
    assert "activations fp4_e2m1 per 16, static" in text
    assert "calibration needed" in text
    assert "activations int8 per token" in " ".join(run("w8a8").stdout.split())


def test_unknown_scheme():
    result = run("nvfp5")
    assert result.exit_code == 2
    assert "hint: did you mean nvfp4" in result.stderr
