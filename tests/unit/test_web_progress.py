"""Data of the page Progress: what the log of a job says."""

import json
from urllib.parse import quote

import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `web` is not installed")
pytest.importorskip("uvicorn", reason="the extra `web` is not installed")

import halve
from halve.pipeline import job_state
from tiny import llama
from tiny.server import serving


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    halve.quantize(llama.write(folder / "source"), folder / "out", "nvfp4a16", log=folder / "job.log")
    return folder / "job.log"


def ask(client, path):
    status, body = client.request("GET", f"/api/progress/job?path={quote(str(path))}")
    return status, json.loads(body)


def test_a_job_is_what_its_log_says(log):
    with serving({}, pages=True, watched=[log]) as client:
        assert json.loads(client.request("GET", "/api/progress")[1]) == [str(log)]
        status, found = ask(client, log)
        wanted = job_state.read(log).to_json()
        assert status == 200
        assert found.pop("silent_seconds") == pytest.approx(wanted.pop("silent_seconds"), abs=5)
        assert found == wanted
        with log.open("a") as file:
            file.write(log.read_text().splitlines()[0] + "\n")
        assert ask(client, log)[1]["running"]


def test_others_see_only_what_is_watched(log, tmp_path):
    other = tmp_path / "other.log"
    other.write_text(log.read_text())
    with serving({}, pages=True, watched=[log], local=False) as client:
        assert ask(client, log)[0] == 200
        status, body = ask(client, other)
        assert status == 400
        assert "--watch" in body["error"]["hint"]
        assert ask(client, "/etc/none") == ask(client, "/etc/none")
    with serving({}, pages=True) as client:
        assert ask(client, other)[0] == 200


@pytest.mark.parametrize("path", ["none.log", "/", "/dev/null", "a\x00b", "~nobody-here/log", "x" * 4000, ""])
def test_what_is_no_log_is_answered_in_words(path):
    with serving({}, pages=True) as client:
        status, body = ask(client, path)
        assert status == 400
        assert body["error"]["message"]
