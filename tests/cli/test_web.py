"""`halve web` as a person types it."""

import socket
import webbrowser

import pytest
from click.testing import CliRunner

from halve.cli.main import cli
from tiny import llama

uvicorn = pytest.importorskip("uvicorn", reason="the extra `web` is not installed")
pytest.importorskip("fastapi", reason="the extra `web` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `web` is not installed")


@pytest.fixture(autouse=True)
def ran(monkeypatch):
    """Sockets at which a server was to answer, and addresses that a browser was to open."""
    calls = {"sockets": [], "opened": []}
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: calls["sockets"].extend(sockets))
    monkeypatch.setattr(webbrowser, "open", calls["opened"].append)
    return calls


def halve(*arguments):
    return CliRunner().invoke(cli, ["web", "--port", "0", *map(str, arguments)])


def test_it_needs_no_model_and_opens_no_browser_where_there_is_no_screen(ran):
    done = halve()
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("halve web: http://127.0.0.1:")
    assert (len(ran["sockets"]), ran["opened"]) == (1, [])


def test_models_and_a_browser(tmp_path, ran):
    done = halve(llama.write_talker(tmp_path / "talker", "Ha"), "--open")
    assert done.stderr.startswith("talker: reference path")
    assert ran["opened"][0] in done.stdout


def test_others_without_a_key_are_warned_of():
    assert "no --api-key" in halve("--host", "0.0.0.0").stderr
    assert "no --api-key" not in halve("--host", "0.0.0.0", "--api-key", "x").stderr


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = halve("--port", taken.getsockname()[1])
    assert done.exit_code == 2
    assert "--port 0" in done.stderr
