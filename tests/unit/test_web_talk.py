"""Data of the page Talk: several models answer one prompt, each as it does alone."""

import json
import socket

import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `web` is not installed")
pytest.importorskip("uvicorn", reason="the extra `web` is not installed")

from halve.runtime.load import load
from halve.runtime.packed import kernels
from halve.runtime.packed.load import load_quickest
from halve.serve.limits import Limits
from tiny import llama, speaker
from tiny.server import serving

SAYS = "Ha, 世é!"
LIMITS = Limits(running=4, queued=6, kv_tokens=600, body=65536, max_tokens=100)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    packed = kernels.native is not None
    return {
        "talker": load(llama.write_talker(folder / "talker", SAYS, template=llama.TEMPLATE)),
        "speaker": load_quickest(speaker.write(folder / "speaker"), mode="exact", threads=1 if packed else None),
    }


@pytest.fixture(scope="module")
def client(models):
    with serving(models, pages=True, limits=LIMITS) as client:
        yield client


@pytest.fixture(autouse=True)
def _leaves_nothing(client):
    yield
    assert client.idle(), "positions of a cache were not given back"


def ask(**changes):
    return {"models": ["talker", "speaker"], "prompt": "Who?", "max_tokens": 12} | changes


def test_the_models_and_what_they_take(client, models):
    found = json.loads(client.request("GET", "/api/talk/models")[1])
    assert [one["name"] for one in found] == ["talker", "speaker"]
    for one in found:
        assert one["weight_bytes"] > 0
        assert one["weights"]
        assert one["engine"] == models[one["name"]].engine


def test_each_answers_as_it_does_alone(client, models):
    events = client.stream("/api/talk", ask())
    for name, model in models.items():
        own = [event for event in events if event["model"] == name]
        alone = model.generate("Who?", max_tokens=12)
        assert "".join(event.get("text", "") for event in own) == alone.text
        assert own[-1]["end"] in ("stop", "length")
        assert own[-1]["tokens"] == len(alone.tokens)
        assert 0 < own[-1]["seconds"] < 60
        assert own[0]["cache_bytes"] > 0


def test_they_answer_at_once(client):
    order = [event["model"] for event in client.stream("/api/talk", ask(models=["speaker", "talker"], max_tokens=60))]
    assert order.index("talker") < len(order) - 1 - order[::-1].index("speaker"), "one waits for the other"


def test_what_one_cannot_do_does_not_end_the_others(client):
    events = client.stream("/api/talk", ask(models=["talker", "nobody"]))
    failed = next(event for event in events if event["model"] == "nobody")
    assert failed["error"]["kind"] == "UnknownNameError"
    assert "".join(event.get("text", "") for event in events) == SAYS
    events = client.stream("/api/talk", ask(prompt="x" * 80, max_tokens=1))  # the talker's context is 64
    assert next(event for event in events if "error" in event)["model"] == "talker"
    assert any(event.get("end") for event in events if event["model"] == "speaker")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"models": []}, 400),
        ({"models": ["nobody"]}, 404),
        ({"models": ["talker"] * 5}, 400),
        ({"models": "talker"}, 400),
        ({"prompt": ""}, 400),
        ({"prompt": "\ud800"}, 400),
        ({"prompt": ["Who?"]}, 400),
        ({"prompt": "x" * 60_000}, 400),
        ({"max_tokens": 0}, 400),
        ({"max_tokens": None}, 400),
        ({"temperature": float("nan")}, 400),
        ({"temperature": 3}, 400),
        ({"seed": 1 << 70}, 400),
    ],
)
def test_a_wrong_question_is_told_so(client, changes, status):
    found, body = client.post("/api/talk", ask() | changes)
    assert found == status, body
    assert body["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b"null", b"[" * 50_000])
def test_a_body_that_is_no_question(client, body):
    status, found = client.post("/api/talk", body)
    assert (status, list(found)) == (400, ["error"])


def test_a_page_that_is_closed_is_forgotten(client):
    body = json.dumps(ask(models=["speaker"], max_tokens=100, temperature=2)).encode()
    head = "POST /api/talk HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json"
    head += f"\r\ncontent-length: {len(body)}"
    for _ in range(4):
        with socket.create_connection(("localhost", client.port), 20) as raw:
            raw.sendall(head.encode() + b"\r\n\r\n" + body)
            raw.recv(100)
    assert client.idle()
