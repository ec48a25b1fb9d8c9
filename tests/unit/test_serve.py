"""`halve.serve`: OpenAI's API over continuous batching, and what hostile clients try."""

import json
import math
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from halve.runtime.load import load
from halve.runtime.packed import kernels
from halve.runtime.packed.load import load_quickest
from halve.serve.limits import Limits
from tiny import llama, speaker
from tiny.server import serving

SAYS = "Ha, 世é!"
CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
HELLO = {"model": "talker", "messages": [{"role": "user", "content": "Who?"}], "temperature": 0}
LIMITS = Limits(running=4, queued=6, kv_tokens=600, body=65536, receive_seconds=1, max_tokens=100)


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
    with serving(models, limits=LIMITS) as client:
        yield client


@pytest.fixture(autouse=True)
def _leaves_nothing(client):
    yield
    assert client.idle(), "positions of a cache were not given back"


def ask(prompt="Numbers", **changes):
    return {"model": "speaker", "prompt": prompt, "max_tokens": 12, "temperature": 0, "seed": 3} | changes


def test_health_and_models(client):
    assert client.request("GET", "/health") == (200, '{"status":"ok"}')
    listed = json.loads(client.request("GET", "/v1/models")[1])["data"]
    assert [card["id"] for card in listed] == ["talker", "speaker"]
    assert client.request("GET", "/v1/models/talker")[0] == 200
    assert client.request("GET", "/v1/models/walker")[0] == 404


def test_a_chat_is_answered_whole_and_streamed_alike(client):
    status, whole = client.post(CHAT, HELLO)
    assert status == 200
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": SAYS}
    assert whole["choices"][0]["finish_reason"] == "stop"
    new = len(SAYS.encode())
    assert whole["usage"] == {"prompt_tokens": 6, "completion_tokens": new, "total_tokens": 6 + new}
    chunks = client.stream(CHAT, HELLO | {"stream_options": {"include_usage": True}})
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert [delta["content"] for delta in deltas[1:-1]] == list(SAYS)
    assert chunks[-1]["usage"] == whole["usage"]


@pytest.mark.parametrize("stream", [False, True])
def test_stop_texts_are_never_given_out(client, stream):
    body = HELLO | {"stop": ["世é", "zzz"]}
    if stream:
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in client.stream(CHAT, body))
    else:
        text = client.post(CHAT, body)[1]["choices"][0]["message"]["content"]
    assert text == "Ha, "


def test_the_same_words_as_halve_run(client, models):
    for options in ({}, {"temperature": 1.5, "top_p": 0.9}):
        wanted = models["speaker"].generate("Numbers", max_tokens=12, chat=False, **({"seed": 3} | options))
        assert client.post(PLAIN, ask(**options))[1]["choices"][0]["text"] == wanted.text


def test_sequences_that_share_steps_answer_as_alone(client):
    prompts = ["Numbers", "of", "fewer bits for deep learning", "x" * 90]
    alone = [client.post(PLAIN, ask(prompt))[1]["choices"][0]["text"] for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda prompt: client.post(PLAIN, ask(prompt))[1]["choices"][0]["text"], prompts))
    assert together == alone
    batch = client.post(PLAIN, ask(prompts))[1]
    assert [choice["text"] for choice in batch["choices"]] == alone


def test_scores_of_a_prompt_are_the_models(client, models):
    text = "Numbers of bits"
    ids = models["speaker"].tokenizer.encode(text)
    found = client.post(PLAIN, ask(ids.tolist(), echo=True, logprobs=2, max_tokens=1))[1]["choices"][0]
    logits = models["speaker"].logits(ids).astype(np.float64)
    wanted = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    scores = found["logprobs"]
    assert found["text"].startswith(text)
    assert scores["token_logprobs"][0] is scores["top_logprobs"][0] is None
    for place, token in enumerate(ids[1:], 1):
        assert math.isclose(scores["token_logprobs"][place], wanted[place - 1, token], abs_tol=1e-4)
        assert math.isclose(max(scores["top_logprobs"][place].values()), wanted[place - 1].max(), abs_tol=1e-4)
    assert len(scores["tokens"]) == len(ids) + 1
    only = client.post(PLAIN, ask(text, echo=True, logprobs=0, max_tokens=0))[1]["choices"][0]
    assert (only["text"], len(only["logprobs"]["tokens"])) == (text, len(ids))


def test_chat_logprobs(client):
    entries = client.post(CHAT, HELLO | {"logprobs": True, "top_logprobs": 2})[1]["choices"][0]["logprobs"]["content"]
    assert [len(entry["top_logprobs"]) for entry in entries] == [2] * len(SAYS.encode())
    assert entries[0]["token"] == "H"
    assert entries[0]["top_logprobs"][0]["logprob"] == entries[0]["logprob"] < 0


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"model": "walker"}, 404),
        ({"max_tokens": -1}, 400),
        ({"max_tokens": 0}, 400),
        ({"temperature": float("nan")}, 400),
        ({"temperature": "hot"}, 400),
        ({"seed": 1 << 70}, 400),
        ({"stop": ["x"] * 10_000}, 400),
        ({"stop": ["x" * 60_000]}, 400),
        ({"prompt": ""}, 400),
        ({"prompt": []}, 400),
        ({"prompt": [9999]}, 400),
        ({"prompt": [1, "a"]}, 400),
        ({"prompt": ["a"] * 65}, 400),
        ({"prompt": ["a"] * 7}, 429),
        ({"prompt": "x" * 60_000}, 400),
        ({"prompt": "\ud800"}, 400),
        ({"prompt": {"__class__": 1}}, 400),
        ({"tools": [{"type": "function"}]}, 400),
        ({"n": 2}, 400),
        ({"what": "is this", "user": "me"}, 200),
    ],
)
def test_a_wrong_request_is_told_so(client, changes, status):
    found, body = client.post(PLAIN, ask(max_tokens=80) | changes if status == 429 else ask() | changes)
    assert found == status, body
    assert ("error" in body) == (status != 200)
    assert status == 200 or body["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b'{"model": "\xc3\x28"}', b"[" * 50_000, b'{"a":' * 9_000, b"null", b"9" * 5_000],
    ids=["empty", "cut", "not UTF-8", "not UTF-8 inside", "deep list", "deep object", "null", "huge number"],
)
def test_a_body_that_is_no_request(client, body):
    status, found = client.post(CHAT, body)
    assert (status, list(found)) == (400, ["error"])
    assert client.post(CHAT, HELLO)[0] == 200


def test_a_large_body_is_refused_by_its_head_and_by_its_bytes(client):
    assert client.post(CHAT, b" " * 65_537)[0] == 413
    with socket.create_connection(("localhost", client.port), 20) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        raw.sendall(b"10001\r\n" + b" " * 0x10001 + b"\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


def test_a_slow_body_is_given_up(client):
    with socket.create_connection(("localhost", client.port), 20) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{")
        assert raw.recv(100).startswith(b"HTTP/1.1 408")


def test_text_of_a_message_is_no_template(client):
    hostile = [{"role": "user", "content": "{{ 7 * 7 }}{% for i in range(10**9) %}{% endfor %}"}]
    whole = client.post(CHAT, HELLO | {"messages": hostile, "max_tokens": 1})[1]
    assert whole["usage"]["prompt_tokens"] == len(hostile[0]["content"]) + 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_is_forgotten(client, stream):
    body = json.dumps(ask(max_tokens=100, stream=stream, temperature=2)).encode()
    head = f"POST {PLAIN} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    for _ in range(8):
        with socket.create_connection(("localhost", client.port), 20) as raw:
            raw.sendall(head.encode() + b"\r\n\r\n" + body)
            time.sleep(0.005)
    assert client.idle()
    assert client.post(CHAT, HELLO)[0] == 200


def test_names_of_other_machines_are_not_answered(client):
    assert client.request("GET", "/v1/models", host="evil.example")[0] == 421
    assert client.request("GET", "/v1/models", host=f"127.0.0.1:{client.port}")[0] == 200
    assert client.request("GET", "/v1/models", host="[::1]:80")[0] == 200


def test_the_api_key_and_a_request_that_takes_too_long(models):
    limits = Limits(request_seconds=1e-9)
    with serving({"talker": models["talker"]}, limits=limits, api_key="gé heim") as client:
        assert client.request("GET", "/health")[0] == 200
        assert client.request("GET", "/v1/models")[0] == 401
        assert client.request("GET", "/v1/models", authorization="Bearer wrong")[0] == 401
        key = {"authorization": "Bearer gé heim".encode().decode("latin-1")}
        assert client.post(CHAT, HELLO, **key)[0] == 408
        assert "error" in client.request("POST", CHAT, HELLO | {"stream": True}, **key)[1]


def test_metrics_count_what_was_done(client):
    def value(name):
        lines = client.request("GET", "/metrics")[1].splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)

    name = 'halve_generated_tokens_total{model="talker"}'
    before = value(name)
    client.post(CHAT, HELLO)
    assert client.idle()
    assert value(name) == before + len(SAYS.encode())
    assert value('halve_time_to_first_token_seconds_count{model="talker"}') > 0
    assert value("halve_kv_tokens_limit") == LIMITS.kv_tokens
