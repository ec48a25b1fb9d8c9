"""What `--log FILE` holds."""

import json

import pytest

import halve
from halve.errors import FormatError, OutputError
from tiny import llama


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_stages_rates_and_the_most_memory(tmp_path):
    source, log = llama.write(tmp_path / "source"), tmp_path / "log.jsonl"
    halve.quantize(source, tmp_path / "out", "nvfp4a16", log=log)
    begin, *between, end = lines(log)
    stages = [line for line in between if line["event"] == "stage"]
    assert (begin["event"], begin["scheme"], begin["source"]) == ("begin", "nvfp4a16", str(source))
    assert [stage["stage"] for stage in stages] == ["quantize with rtn", "finish"]
    read = stages[0]
    assert read["bytes"] == sum(w.nbytes for w in llama.weights().values())
    assert read["bytes_per_second"] == pytest.approx(read["bytes"] / read["seconds"], rel=0.5)
    assert (end["event"], end["ok"]) == ("end", True)
    assert 20e6 < stages[0]["max_rss"] <= end["max_rss"] < 4e9
    halve.quantize(source, tmp_path / "other", "w8a8", log=log)
    assert [line["event"] for line in lines(log)].count("end") == 2


def test_the_log_holds_what_the_bar_shows(tmp_path):
    source, log, bar = llama.write(tmp_path / "source"), tmp_path / "log.jsonl", []
    halve.quantize(source, tmp_path / "out", "nvfp4a16", log=log, progress=bar.append)
    events = [line for line in lines(log) if line["event"] in ("start", "progress")]
    assert [line["stage"] for line in events if line["event"] == "start"] == ["quantize with rtn", "finish"]
    said = [(line["done"], line["total"], line["tensor"]) for line in events if line["event"] == "progress"]
    shown = [(state.done, state.total, state.tensor) for state in bar]
    assert set(said) <= set(shown)
    assert said[0] == shown[0]
    assert said[-1] == shown[-1]
    assert len(said) < len(shown)


def test_the_log_tells_of_calibration_by_layers(tmp_path):
    talker, log = llama.write_talker(tmp_path / "source", "Ha"), tmp_path / "log.jsonl"
    text = tmp_path / "text"
    text.write_text("Ha " * 600)
    halve.quantize(talker, tmp_path / "out", "w8a16", log=log, calibrate=[str(text)], algorithm="gptq")
    layers = [line for line in lines(log) if line.get("unit") == "layers"]
    assert [line["done"] for line in (layers[0], layers[-1])] == [0, layers[-1]["total"]]
    assert next(line["stage"] for line in lines(log) if line["event"] == "start") == "calibrate"


def test_a_failure_says_why(tmp_path):
    weights = llama.weights()
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    source, log = llama.write(tmp_path / "source", weights), tmp_path / "log.jsonl"
    with pytest.raises(FormatError):
        halve.quantize(source, tmp_path / "out", "nvfp4a16", log=log)
    end = lines(log)[-1]
    assert (end["ok"], end["error"]) == (False, "FormatError")
    assert "up_proj" in end["message"]


def test_a_place_that_cannot_be_written_is_found_before_the_work(tmp_path):
    source = llama.write(tmp_path / "source")
    with pytest.raises(OutputError, match="No such file") as raised:
        halve.quantize(source, tmp_path / "out", "w8a8", log=tmp_path / "nowhere" / "log")
    assert "--log" in raised.value.hint
    assert not (tmp_path / "out").exists()
