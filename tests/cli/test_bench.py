"""`halve bench` as a person types it."""

import json

import pytest
from click.testing import CliRunner

from halve.cli.main import cli
from tiny import speaker

pytest.importorskip("halve._native", reason="packed models need the native module")


@pytest.fixture
def model(tmp_path):
    return speaker.write(tmp_path / "speaker")


def bench(*arguments):
    return CliRunner().invoke(cli, ["bench", *map(str, arguments)])


def test_a_row_for_each_test_and_number_of_threads(model):
    done = bench(model, "-p", "8", "-n", "4", "-t", "1", "-r", "2")
    assert done.exit_code == 0
    head, _, *rows = done.stdout.splitlines()
    assert head.split()[:9] == ["model", "size", "params", "isa", "act", "kv", "threads", "test", "t/s"]
    assert [row.split()[0] for row in rows] == ["speaker"] * 2
    assert [name in row for name, row in zip(("pp8", "tg4"), rows, strict=True)] == [True, True]
    assert "bf16" in rows[0]
    assert "%" not in rows[0]
    assert rows[1].rstrip().endswith("%")


def test_json(model):
    found = json.loads(bench(model, "-p", "0", "-n", "4", "-t", "1", "-r", "3", "--act", "int8", "--json").stdout)
    assert found["model"] == "speaker"
    assert found["activations"] == "int8"
    (speed,) = found["speeds"]
    assert (speed["test"], speed["threads"], len(speed["seconds"])) == ("tg4", 1, 3)
    assert found["parameters"] < speed["bytes_per_token"] < found["bytes"]  # without the embedding
    assert speed["tokens_per_s"] == pytest.approx(sum(4 / s for s in speed["seconds"]) / 3)
    assert speed["read_used"] == pytest.approx(
        speed["bytes_per_token"] * speed["tokens_per_s"] / speed["read_bytes_per_second"]
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["-p", "0", "-n", "0"], 2, "nothing to time"),
        (["-p", "1000"], 2, "more than the context"),
        (["-t", "1000"], 2, "threads on"),
        (["-t", "1,x"], 2, "is no list of numbers"),
        (["-t", "0"], 2, "is no list of numbers"),
        (["--act", "int4"], 2, "int4"),
    ],
    ids=str,
)
def test_errors(model, arguments, code, said):
    done = bench(model, *arguments)
    assert done.exit_code == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
