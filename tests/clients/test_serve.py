"""Clients of OpenAI's API against `halve.serve`, unchanged, and schemathesis, which tries to break it.

Run by `nox -s serve`.
"""

import http.client
import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("openai", reason="`nox -s serve` installs it")
pytest.importorskip("schemathesis", reason="`nox -s serve` installs it")

import numpy as np
import openai
import schemathesis
from hypothesis import Phase, given, settings

from halve.runtime.load import load
from halve.serve.limits import Limits
from tiny import llama, speaker
from tiny.server import serving

SAYS = "Ha, 世é!"
MESSAGES = [{"role": "user", "content": "Who?"}]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    models = {
        "talker": load(llama.write_talker(folder / "talker", SAYS, template=llama.TEMPLATE)),
        "speaker": load(speaker.write(folder / "speaker")),
    }
    with serving(models, limits=Limits(max_tokens=20), api_key="secret") as client:
        yield client


@pytest.fixture
def client(served):
    with openai.OpenAI(base_url=f"http://localhost:{served.port}/v1", api_key="secret", max_retries=0) as client:
        yield client


def test_chat(client):
    assert [model.id for model in client.models.list()] == ["talker", "speaker"]
    answer = client.chat.completions.create(
        model="talker", messages=MESSAGES, temperature=0, logprobs=True, top_logprobs=2
    )
    assert answer.choices[0].message.content == SAYS
    assert answer.usage.completion_tokens == len(answer.choices[0].logprobs.content) == len(SAYS.encode())


def test_a_streamed_chat(client):
    stream = client.chat.completions.create(
        model="talker", messages=MESSAGES, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == SAYS
    assert chunks[-1].usage.completion_tokens == len(SAYS.encode())


def test_completions(client):
    one, two = client.completions.create(
        model="speaker", prompt=["Numbers", "of"], max_tokens=4, echo=True, logprobs=3, seed=1
    ).choices
    assert one.text.startswith("Numbers")
    assert len(two.logprobs.token_logprobs) == 6


def test_errors_are_the_clients_own(client):
    with pytest.raises(openai.NotFoundError, match="walker"):
        client.completions.create(model="walker", prompt="x")
    with pytest.raises(openai.BadRequestError, match="tools"):
        client.chat.completions.create(model="talker", messages=MESSAGES, tools=[{"type": "function", "function": {}}])
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


def test_lm_eval_finds_what_the_model_says(served, tmp_path):
    pytest.importorskip("lm_eval", reason="`nox -s serve` installs it")
    documents = [
        {"text": text, "choices": ["bits", "rack", "deep"]} for text in ("Numbers of", "the single", "of fewer")
    ]
    model = served.server.scheduler.models["speaker"]
    for document in documents:
        document["answer"] = max(range(3), key=lambda place: _logprob(model, document, place))
    documents[0]["answer"] = (documents[0]["answer"] + 1) % 3  # so that 2 of 3 are right
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    task = {
        "task": "words",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "data.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}],
    }
    (tmp_path / "words.yaml").write_text(json.dumps(task))  # JSON is YAML
    url = f"http://localhost:{served.port}/v1/completions"
    settings = f"model=speaker,base_url={url},tokenizer={model.path},tokenizer_backend=huggingface,max_length=120"
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", settings]
    options = ["--tasks", "words", "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    environment = os.environ | {"OPENAI_API_KEY": "secret", "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(next((tmp_path / "out").rglob("results*.json")).read_text())
    assert found["results"]["words"]["acc,none"] == pytest.approx(2 / 3)


def _logprob(model, document, place):
    """Of a choice after the text, a space between."""
    text = model.tokenizer.encode(document["text"])
    whole = model.tokenizer.encode(f"{document['text']} {document['choices'][place]}")
    logits = model.logits(whole[:-1]).astype(np.float64)
    scores = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return scores[np.arange(len(text) - 1, len(whole) - 1), whole[len(text) :]].sum()


def test_no_request_that_the_schema_allows_or_forbids_breaks_the_server(served):
    schema = schemathesis.openapi.from_dict(served.server.api.openapi())
    paths = [("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("GET", "/v1/models/{name}")]
    tried = []
    for method, path in paths:

        @settings(max_examples=100, deadline=None, derandomize=True, phases=[Phase.generate], database=None)
        @given(case=schema[path][method].as_strategy())
        def attempt(case):
            response = case.call(base_url=f"http://localhost:{served.port}", headers={"authorization": "Bearer secret"})
            tried.append(response.status_code)
            assert response.status_code < 500, response.text

        attempt()
    assert len(tried) > 100
    assert served.idle()
    connection = http.client.HTTPConnection("localhost", served.port)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()
