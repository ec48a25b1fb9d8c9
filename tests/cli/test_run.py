"""`halve run` as a person types it."""

import json

import pytest
from click.testing import CliRunner

from halve.cli.main import cli
from halve.runtime.model import Model
from tiny import llama, speaker

SAYS = "Ha, 世é!"


@pytest.fixture
def talker(tmp_path):
    return llama.write_talker(tmp_path / "talker", SAYS, template=llama.TEMPLATE)


def halve(*arguments, **options):
    return CliRunner().invoke(cli, ["run", *map(str, arguments)], **options)


def test_an_answer_on_stdout_and_the_speed_on_stderr(talker):
    done = halve(talker, "Who?")
    assert (done.exit_code, done.stdout) == (0, f"{SAYS}\n")
    assert "6 prompt tokens" in done.stderr
    assert "reference path" in done.stderr


def test_json_is_one_object(talker):
    found = json.loads(halve(talker, "Who?", "--json", "--max-tokens", "3").stdout)
    assert found["text"] == "Ha,"
    assert found["tokens"] == list(b"Ha,")
    assert found["statistics"]["stopped"] == "length"
    assert found["statistics"]["path"] == "reference path"


def test_raw_leaves_the_template_out(tmp_path):
    talker = llama.write_talker(tmp_path / "talker", SAYS)
    assert halve(talker, "Who?", "--raw").stdout == f"{SAYS}\n"


def test_options_reach_the_sampler(talker):
    drawn = ["--temperature", "9", "--max-tokens", "20", "--json"]
    one, same, other = (
        json.loads(halve(talker, "Who?", *drawn, "--seed", seed).stdout)["tokens"] for seed in (1, 1, 2)
    )
    assert one == same != other
    for narrow in (["--top-k", "1"], ["--top-p", "0.0001"]):
        assert json.loads(halve(talker, "Who?", *drawn, *narrow).stdout)["text"] == SAYS


def test_a_chat_keeps_its_history(talker, monkeypatch):
    asked = []
    render = Model.chat.func

    class Heard:
        available = True

        def __init__(self, model):
            self.chat = render(model)

        def render(self, messages):
            asked.append([message["content"] for message in messages])
            return self.chat.render(messages)

    monkeypatch.setattr(Model, "chat", property(Heard))
    done = halve(talker, "--max-tokens", "2", input="Who?\n\nAnd then?\n")
    assert done.exit_code == 0
    assert done.stdout == "Ha\nHa\n"
    assert asked == [["Who?"], ["Who?", "Ha", "And then?"]]


def test_a_question_that_is_too_long_does_not_end_the_chat(talker):
    done = halve(talker, input=f"{'x' * 80}\nWho?\n")
    assert done.exit_code == 0
    assert done.stdout == f"{SAYS}\n"
    assert "83 tokens are more than the context of 64" in done.stderr


def test_ctrl_c_stops_an_answer_and_not_the_chat(talker, monkeypatch):
    logits, calls = Model.logits, []

    def interrupted(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return logits(self, *arguments, **options)

    monkeypatch.setattr(Model, "logits", interrupted)
    done = halve(talker, input="Who?\nWho?\n")
    assert done.exit_code == 0
    assert done.stdout == f"Ha\n{SAYS}\n"


def test_ctrl_c_with_a_prompt_ends_with_130(talker, monkeypatch):
    def interrupted(self, *arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Model, "logits", interrupted)
    done = halve(talker, "Who?")
    assert done.exit_code == 130
    assert "interrupted" in done.stderr


@pytest.mark.parametrize(
    ("change", "arguments", "code", "says"),
    [
        (None, ["--json"], 2, "--json needs PROMPT"),
        (None, ["Who?", "--max-tokens", "0"], 2, "max-tokens"),
        (None, ["Who?", "--top-p", "0"], 2, "top-p"),
        (None, ["x" * 90], 2, "more than the context of 64"),
        ("model_type", ["Who?"], 2, "run and eval do not know"),
        ("tokenizer.json", ["Who?"], 1, "no tokenizer.json"),
        ("model.safetensors", ["Who?"], 1, "safetensors"),
    ],
)
def test_what_bad_input_gets(talker, change, arguments, code, says):
    if change == "model_type":
        config = json.loads((talker / "config.json").read_text())
        (talker / "config.json").write_text(json.dumps(config | {"model_type": "mamba", "architectures": ["Mamba"]}))
    elif change:
        (talker / change).unlink()
    done = halve(talker, *arguments)
    assert done.exit_code == code
    assert says in done.stderr
    assert "Traceback" not in done.output


def test_packed_weights_are_the_default_where_native_code_knows_the_model(tmp_path):
    pytest.importorskip("halve._native", reason="packed models need the native module")
    model = speaker.write(tmp_path / "speaker")
    arguments = [model, "Numbers", "--raw", "--max-tokens", "5", "--json", "-t", "1"]
    for act in ("exact", "bf16", "int8"):
        found = json.loads(halve(*arguments, "--act", act).stdout)
        assert f"{act} activations, 1 thread" in found["statistics"]["path"]
        if act == "exact":
            tokens = found["tokens"]
    found = json.loads(halve(*arguments, "--reference").stdout)
    assert found["statistics"]["path"] == "reference path"
    assert found["tokens"] == tokens
