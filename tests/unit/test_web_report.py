"""Data of the page Report: results of the commands, and files that are none."""

import json

import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `web` is not installed")
pytest.importorskip("uvicorn", reason="the extra `web` is not installed")

import halve
from halve.evaluate.charts import frontier
from halve.evaluate.estimate import Estimate
from halve.pipeline.inspect import inspect
from tiny import llama
from tiny.server import serving


@pytest.fixture(scope="module")
def client():
    with serving({}, pages=True) as client:
        yield client


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    source = llama.write(folder / "source")
    halve.quantize(source, folder / "nvfp4", "nvfp4a16")
    return {
        "evaluation": halve.evaluate(folder / "nvfp4", against=source, windows=2, window=16),
        "inspection": inspect(folder / "nvfp4", values=True),
        "plan": halve.plan("Llama-3.1-8B", hardware=["H100", "L4"]),
    }


def opened(client, content, name="file.json"):
    return client.post("/api/report", {"name": name, "content": content})


@pytest.mark.parametrize("kind", ["evaluation", "inspection", "plan"])
def test_results_are_known_by_what_they_hold(client, results, kind):
    content = json.loads(json.dumps(results[kind].to_json()))
    status, found = opened(client, content)
    assert status == 200, found
    assert [one["kind"] for one in found] == [kind]
    assert found[0]["name"] == "file.json"
    assert len(opened(client, [content, content])[1]) == 2


def test_an_evaluation(client, results):
    wanted = results["evaluation"]
    found = opened(client, wanted.to_json())[1][0]
    assert (found["scheme"], found["bytes"], found["bpw"]) == (wanted.label, wanted.bytes, round(wanted.bpw, 4))
    assert found["losses"][0]["kld"] == wanted.weights.kld.mean
    cells = {(cell["kind"], cell["depth"]): cell["output_db"] for cell in found["map"]}
    assert len(cells) == len(wanted.layers)
    for layer in wanted.layers:
        assert layer.output_db in cells.values()


def test_histograms_are_on_the_numbers_of_the_format(client, results):
    wanted = results["inspection"]
    found = opened(client, wanted.to_json())[1][0]
    (histogram,) = found["histograms"]
    assert histogram["element"] == "fp4_e2m1"
    positive = [0.5, 1, 1.5, 2, 3, 4, 6]
    assert [one["value"] for one in histogram["numbers"]] == sorted([0, *positive, *(-x for x in positive)])
    assert sum(one["count"] for one in histogram["numbers"]) == histogram["weights"]
    assert sum(one["share"] for one in histogram["numbers"]) == pytest.approx(1)
    assert sum(one["bytes"] for one in found["elements"]) == wanted.bytes


def test_the_front_is_that_of_the_report(client, results):
    one = results["evaluation"]
    losses = [0.5, 0.2, 0.3, 0.1]
    wanted = frontier([(one, Estimate(loss, None)) for loss in losses])
    assert [estimate.mean for _, estimate in wanted] == [0.1]
    assert client.post("/api/report/front", {"points": [[3, 0.1], [1, 0.5], [2, 0.7], [2.5, 0.3]]})[1] == [1, 3, 0]
    assert client.post("/api/report/front", {"points": []})[1] == []


def broken(results):
    evaluation, inspection, plan = (json.loads(json.dumps(one.to_json())) for one in results.values())
    yield {}, "no result"
    yield [], "0 results"
    yield [1], "no result"
    yield "text", "no result"
    yield None, "no result"
    yield {"losses": []}, "path"
    yield {**evaluation, "losses": []}, "losses"
    yield {**evaluation, "bytes": -1}, "bytes"
    yield {**evaluation, "layers": [{"name": 1}]}, "layers.0.name"
    yield {**plan, "options": [{**plan["options"][0], "device_bytes": 0}]}, "options.0.device_bytes"
    yield {**inspection, "tensors": []}, "tensors"
    tensor = next(one for one in inspection["tensors"] if "codes" in one)
    for codes, word in (
        ({"element": "fp99", "histogram": [1]}, "fp99"),
        ({"element": "fp4_e2m1", "histogram": [1, 2]}, "16 codes"),
        ({"element": "fp32", "histogram": [1]}, "fp32"),
        ({"element": "fp4_e2m1", "histogram": [-1] * 16}, "histogram"),
    ):
        yield {**inspection, "tensors": [{**tensor, "codes": codes}]}, word
    two = [{**tensor, "codes": {"element": "fp4_e2m1", "histogram": [1] * n}} for n in (16, 17)]
    yield {**inspection, "tensors": two}, "differ"


def test_other_files_are_answered_in_words(client, results):
    for content, word in broken(results):
        status, body = opened(client, content, "strange.json")
        assert status == (404 if word == "fp99" else 400), content
        assert word in body["error"]["message"], body
    assert client.post("/api/report/front", {"points": [["a", 1]]})[0] == 400
    assert client.request("POST", "/api/report", b'{"name": "x"')[0] == 400
