"""How far a job is, out of its log."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

import halve
from halve.errors import FormatError, UnsupportedError
from halve.pipeline import job_state
from tiny import llama

BEGIN = {"event": "begin", "halve": "1", "source": "a", "out": "b", "scheme": "nvfp4", "resume": False}


def log(path, *events):
    """Write events, a second apart."""
    lines = [json.dumps({"time": f"2026-01-01T00:00:{i:02}+00:00", **event}) + "\n" for i, event in enumerate(events)]
    path.write_text("".join(lines))
    return path


def progress(done):
    return {"event": "progress", "done": done, "total": 1000, "unit": "bytes", "tensor": f"t{done}"}


def test_a_job_under_way(tmp_path):
    start = {"event": "start", "stage": "quantize with rtn", "bytes": 1000}
    state = job_state.read(log(tmp_path / "log", BEGIN, start, progress(100), progress(300), progress(500)))
    found = state.to_json(datetime(2026, 1, 1, 0, 0, 9, tzinfo=UTC))
    assert (found["done"], found["total"], found["tensor"]) == (500, 1000, "t500")
    assert found["per_second"] == 200
    assert found["seconds_left"] == 2.5
    assert (found["seconds"], found["silent_seconds"], found["running"]) == (4, 5, True)
    assert found["curve"] == [[2, 100], [3, 300], [4, 500]]
    assert found["stages"] == [{"name": "quantize with rtn", "seconds": None, "bytes": 1000, "bytes_per_second": None}]


def test_the_rate_is_that_of_late_and_a_candidate_begins_anew(tmp_path):
    first = {"event": "start", "stage": "quantize with gptq", "bytes": 1000}
    slow = [progress(i) for i in range(1, 11)]
    fast = [progress(10 + 20 * i) for i in range(1, 41)]
    state = job_state.read(log(tmp_path / "log", BEGIN, first, *slow, *fast))
    assert state.rate == pytest.approx(20)
    state = job_state.read(log(tmp_path / "log", BEGIN, first, *slow, first))
    assert state.curve[-1][1] == 10
    assert state.seconds_left is None
    state = job_state.read(log(tmp_path / "log", BEGIN, first, *slow, first, progress(7)))
    assert [done for _, done in state.curve] == [7]
    assert state.rate is None
    assert state.seconds_left is None


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    time = datetime(2026, 1, 1, tzinfo=UTC)
    curve = [(time, done) for done in range(1000)]
    shown = job_state.JobState({}, time, time, curve=curve, total=1000).to_json(time)["curve"]
    assert len(shown) <= 240
    assert (shown[0][1], shown[-1][1]) == (0, 999)


def test_a_whole_job_and_the_one_after_it(tmp_path):
    source, path = llama.write(tmp_path / "source"), tmp_path / "log"
    halve.quantize(source, tmp_path / "out", "nvfp4a16", log=path)
    found = job_state.read(path).to_json()
    assert found["done"] == found["total"] == sum(w.nbytes for w in llama.weights().values())
    assert (found["running"], found["end"]["ok"], found["asked"]["scheme"]) == (False, True, "nvfp4a16")
    assert [stage["name"] for stage in found["stages"]] == ["quantize with rtn", "finish"]
    assert all(stage["seconds"] is not None for stage in found["stages"])
    assert found["max_rss"] > 1e6
    weights = llama.weights()
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    with pytest.raises(FormatError):
        halve.quantize(llama.write(tmp_path / "bad", weights), tmp_path / "other", "w8a8", log=path)
    found = job_state.read(path).to_json()
    assert (found["asked"]["scheme"], found["end"]["ok"], found["end"]["error"]) == ("w8a8", False, "FormatError")
    assert "up_proj" in found["end"]["message"]


def test_a_line_that_is_being_written_waits(tmp_path):
    path = log(tmp_path / "log", BEGIN, {"event": "start", "stage": "finish"})
    whole = path.read_text()
    path.write_text(whole + '{"time": "2026-01-')
    assert job_state.read(path).stages[-1].name == "finish"


@pytest.mark.parametrize(
    "content", ["", "hello\n", "[]\n", '{"event": "end"}\n', '{"event": "begin"}\n', "\xff\n", "7\n"]
)
def test_what_is_no_log_is_refused_in_words(tmp_path, content):
    path = tmp_path / "log"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UnsupportedError, match="is not the log of a job") as raised:
        job_state.read(path)
    assert "--log" in raised.value.hint


STRANGE = [None, "x", [], {}, True, -1, 1 << 70, 10**400, float("nan"), float("inf"), "2026-01-01", "9" * 5000]


@pytest.mark.parametrize("place", range(5))
def test_strange_values_are_refused_or_shown(tmp_path, place):
    events = [
        BEGIN,
        {"event": "start", "stage": "a", "bytes": 1000},
        progress(10),
        {"event": "stage", "stage": "a", "seconds": 1.5, "bytes": 1000, "max_rss": 7},
        {"event": "end", "ok": True, "seconds": 2, "max_rss": 9},
    ]
    for name in ("time", *events[place]):
        for value in STRANGE:
            broken = [dict(event) for event in events]
            broken[place][name] = value
            try:
                state = job_state.read(log(tmp_path / "log", *broken))
            except UnsupportedError:
                continue
            json.dumps(state.to_json(), allow_nan=False)
    (tmp_path / "log").write_text("[" * 200_000 + "\n")
    with pytest.raises(UnsupportedError):
        job_state.read(tmp_path / "log")


def test_what_is_not_there_or_no_file_is_refused_in_words(tmp_path):
    with pytest.raises(UnsupportedError, match="No such file"):
        job_state.read(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(UnsupportedError, match="is not the log"):
            job_state.read(path)
    (tmp_path / "large").write_bytes(b"x" * (3 << 20))
    with pytest.raises(UnsupportedError, match="is not the log"):
        job_state.read(tmp_path / "large")
