"""`halve serve` as a person types it."""

import pytest
from click.testing import CliRunner

from halve.cli.main import cli
from tiny import llama

uvicorn = pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")


@pytest.fixture
def started(monkeypatch):
    calls = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: calls.append(options))
    return calls


def halve(*arguments):
    return CliRunner().invoke(cli, ["serve", *map(str, arguments)])


def test_it_listens_on_this_machine(tmp_path, started):
    done = halve(llama.write_talker(tmp_path / "talker", "Ha"))
    assert done.exit_code == 0
    assert done.stderr.startswith("talker: reference path")
    assert (started[0]["host"], started[0]["port"]) == ("127.0.0.1", 8000)


def test_others_without_a_key_are_warned_of(tmp_path, started):
    talker = llama.write_talker(tmp_path / "talker", "Ha")
    assert "no --api-key" in halve(talker, "--host", "0.0.0.0").stderr
    assert "no --api-key" not in halve(talker, "--host", "0.0.0.0", "--api-key", "x").stderr
    assert len(started) == 2


def test_two_models_of_one_name(tmp_path):
    talkers = [llama.write_talker(tmp_path / where / "talker", "Ha") for where in "ab"]
    done = halve(*talkers)
    assert done.exit_code == 2
    assert "two models are called talker" in done.stderr
