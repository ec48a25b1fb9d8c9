"""`halve serve` as a person types it."""

import socket

import pytest
from click.testing import CliRunner

from halve.cli.main import cli
from tiny import llama

uvicorn = pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")


@pytest.fixture(autouse=True)
def sockets(monkeypatch):
    """Sockets at which a server was to answer."""
    found = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: found.extend(sockets))
    return found


def halve(*arguments):
    return CliRunner().invoke(cli, ["serve", "--port", "0", *map(str, arguments)])


def test_it_listens_on_this_machine_and_says_where(tmp_path, sockets):
    done = halve(llama.write_talker(tmp_path / "talker", "Ha"))
    assert done.exit_code == 0
    assert done.stderr.startswith("talker: reference path")
    assert "halve serve: http://127.0.0.1:" in done.stderr
    assert len(sockets) == 1


def test_others_without_a_key_are_warned_of(tmp_path, sockets):
    talker = llama.write_talker(tmp_path / "talker", "Ha")
    assert "no --api-key" in halve(talker, "--host", "0.0.0.0").stderr
    assert "no --api-key" not in halve(talker, "--host", "0.0.0.0", "--api-key", "x").stderr
    assert len(sockets) == 2


def test_a_port_that_is_taken_is_said_before_a_model_is_read(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = halve(tmp_path / "none", "--port", taken.getsockname()[1])
    assert done.exit_code == 2
    assert "cannot be listened at" in done.stderr
    assert "--port 0" in done.stderr


def test_two_models_of_one_name(tmp_path):
    talkers = [llama.write_talker(tmp_path / where / "talker", "Ha") for where in "ab"]
    done = halve(*talkers)
    assert done.exit_code == 2
    assert "two models are called talker" in done.stderr
