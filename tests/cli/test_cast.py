import json

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner

from halve.cli.cast import ROUNDINGS
from halve.cli.main import cli
from halve.codecs import rounding


def run(*args, **options):
    return CliRunner().invoke(cli, ["cast", *args], **options)


def numbers(*args, **options):
    result = run(*args, "--json", **options)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["numbers"]


def test_the_choice_of_roundings_is_the_library_s():
    assert ROUNDINGS == rounding.ROUNDINGS


def test_one_number_in_full():
    lines = [line.split() for line in run("0.1", "--to", "fp8_e4m3").stdout.splitlines()]
    assert lines[1:] == [
        ["input", "0.1", "0x1.999999999999ap-4"],
        ["code", "0x1d", "0|0011|101"],
        ["value", "0.1015625", "0x1.ap-4"],
        ["error", "+0.0015625", "+1.562%", "+0.2", "ulp"],
        ["neighbours", "0.09375", "below", "0.109375", "above"],
    ]


def test_json_of_one_number():
    assert run("0.1", "--to", "fp8_e4m3", "--json").stdout.count("\n") > 5
    assert numbers("0.1", "--to", "fp8_e4m3") == [
        {
            "input": 0.1,
            "code": 29,
            "hex": "0x1d",
            "fields": "0|0011|101",
            "value": 0.1015625,
            "exact": "0.1015625",
            "hex_float": "0x1.ap-4",
            "error": pytest.approx(0.0015625),
            "relative_error": pytest.approx(0.015625),
            "ulps": pytest.approx(0.2),
            "below": 0.09375,
            "above": 0.109375,
        }
    ]


@pytest.mark.parametrize(
    ("word", "value"), [("-0.5", -0.5), ("-1e0", -1), ("0x1.8p+0", 1.5), ("-0x1p-1", -0.5), (".5", 0.5), ("2", 2)]
)
def test_ways_to_write_a_number(word, value):
    assert numbers(word, "--to", "fp4_e2m1")[0]["value"] == value
    assert json.loads(run("--to", "fp4_e2m1", "--json", "--", word).stdout)["numbers"][0]["value"] == value


def test_nan_and_infinity():
    found = numbers("nan", "inf", "-inf", "--to", "fp8_e5m2", "--no-saturate")
    assert [n["value"] for n in found] == ["nan", "inf", "-inf"]
    assert [n["hex"] for n in found][1:] == ["0x7c", "0xfc"]
    found = numbers("inf", "-inf", "--to", "fp8_e5m2")
    assert [n["value"] for n in found] == [57344, -57344]
    assert [n["error"] for n in found] == ["-inf", "inf"]


def test_nan_where_there_is_none():
    result = run("1", "nan", "--to", "fp4_e2m1")
    assert result.exit_code == 1
    assert "error: fp4_e2m1 has no NaN" in result.stderr
    assert "hint: " in result.stderr


def test_a_file_and_stdin(tmp_path):
    path = tmp_path / "numbers.txt"
    path.write_text("0.5, 1\n\n1.5 -2\n")
    expected = [0.5, 1, 1.5, -2]
    assert [n["value"] for n in numbers(str(path), "--to", "fp4_e2m1")] == expected
    assert [n["value"] for n in numbers("-", "--to", "fp4_e2m1", input=path.read_text())] == expected
    assert [n["value"] for n in numbers("6", "-", "--to", "fp4_e2m1", input="3")] == [6, 3]


def test_many_numbers_are_a_table():
    lines = run("0.1", "0.2", "--to", "fp8_e5m2").stdout.splitlines()
    assert lines[1].split()[:3] == ["input", "code", "bits"]
    assert [line.split()[:2] for line in lines[3:]] == [["0.1", "0x2e"], ["0.2", "0x32"]]
    assert run("-", "--to", "fp16", input="").exit_code == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["abc", "--to", "fp16"], "'abc' is neither a number nor a file"),
        (["1", "--to", "fp17"], "unknown format 'fp17'"),
        (["1", "--to", "fp16", "--roundin", "toward_zero"], "Did you mean '--rounding'?"),
        (["1", "--to", "fp16", "--rounding", "up"], "'up' is not one of"),
        (["--to", "fp16"], "Missing argument"),
        (["1"], "Missing option '--to'"),
        (["1", "--to", "fp16", "--seed", "x"], "'x' is not a valid integer"),
    ],
)
def test_wrong_requests(args, message):
    result = run(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr


def test_a_word_in_a_file_that_is_no_number(tmp_path):
    path = tmp_path / "numbers.txt"
    path.write_text("1 2\n3 four\n")
    result = run(str(path), "--to", "fp16")
    assert result.exit_code == 2
    assert "line 2: 'four' is not a number" in result.stderr


def test_stochastic_rounding_is_seeded():
    def draw(seed):
        args = ["--to", "fp4_e2m1", "--rounding", "stochastic", "--seed", str(seed)]
        return [n["value"] for n in numbers(*["0.7"] * 64, *args)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert set(draw(1)) == {0.5, 1.0}


def test_every_value_against_ml_dtypes():
    inputs = np.linspace(-500, 500, 401, dtype=np.float32)
    found = numbers("-", "--to", "fp8_e4m3", "--no-saturate", input=" ".join(map(repr, inputs.tolist())))
    peer = inputs.astype(ml_dtypes.float8_e4m3fn)
    assert [n["code"] for n in found] == peer.view(np.uint8).tolist()
