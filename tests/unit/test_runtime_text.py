"""Text in and out: tokens, characters cut in two, chat templates kind and hostile, and where an answer ends."""

import json
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

from halve.errors import CheckpointError, UnsupportedError
from halve.runtime import chat
from halve.runtime.chat import Chat
from halve.runtime.load import load
from halve.runtime.text import Streamed
from tiny import llama

SAYS = "Ha, 世é!"  # no byte twice
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


@pytest.fixture
def talker(tmp_path):
    def make(says=SAYS, **options):
        return load(llama.write_talker(tmp_path / "talker", says, **options))

    return make


def render(template, messages=MESSAGES, **settings):
    files = {"tokenizer_config.json": json.dumps({"chat_template": template, "eos_token": "</s>"} | settings).encode()}
    return Chat(Path("model"), files).render(messages)


def test_an_answer_comes_in_whole_characters(talker):
    stream = talker().stream("Who?")
    assert list(stream) == list(SAYS)
    assert stream.result.text == str(stream.result) == SAYS
    assert stream.result.tokens == tuple(SAYS.encode())


def test_statistics(talker):
    statistics = talker().generate("Who are you?").statistics
    assert (statistics.prompt_tokens, statistics.cached_tokens, statistics.new_tokens) == (12, 0, len(SAYS.encode()))
    assert statistics.stopped == "end"
    assert statistics.tokens_per_s > 0
    assert statistics.prompt_tokens_per_s > 0
    assert str(statistics).endswith("reference path")
    found = json.loads(json.dumps(statistics.to_json()))
    assert found["path"] == "reference path"
    assert found["tokens_per_s"] == statistics.tokens_per_s


@pytest.mark.parametrize(
    ("options", "text", "stopped"),
    [
        ({"max_tokens": 3}, "Ha,", "length"),
        ({"max_tokens": 5}, "Ha, \ufffd", "length"),  # a third of a character is left
        ({"stop": [" "]}, "Ha,", "stop"),
        ({"stop": ["", "世é", ", 世é!x"]}, "Ha, ", "stop"),
        ({"stop": ["a, 世", "!"]}, "H", "stop"),
        ({"stop": ["Ha!", "é?"]}, SAYS, "end"),
    ],
)
def test_where_an_answer_ends(talker, options, text, stopped):
    result = talker().generate("Who?", **options)
    assert (result.text, result.statistics.stopped) == (text, stopped)


def test_nothing_of_a_stop_text_is_ever_given_out(talker):
    assert "".join(talker().stream("Who?", stop=[", 世é!"])) == "Ha"


def test_the_context_ends_an_answer(talker):
    result = talker(context=8).generate("Who?")
    assert (result.text, result.statistics.stopped) == ("Ha, \ufffd", "context")
    assert result.statistics.new_tokens == 5


def test_what_is_there_so_far(talker):
    stream = talker().stream("Who?")
    pieces = iter(stream)
    assert [next(pieces), next(pieces)] == ["H", "a"]
    assert (stream.result.text, stream.result.statistics.stopped) == ("Ha", "interrupted")


def test_a_cache_saves_the_beginning(talker):
    model = talker()
    cache = model.new_cache()
    for prompt, cached in [("Who are you?", 0), ("Who are we?", 8), ("Who are we?", 10)]:
        stream = model.stream(prompt, cache=cache)
        assert "".join(stream) == SAYS
        assert stream.result.statistics.cached_tokens == cached


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prompt": "x" * 64}, "65 tokens are more than the context of 64"),
        ({"prompt": ""}, "no tokens"),
        ({"max_tokens": 0}, "max_tokens = 0"),
        ({"temperature": -1}, "temperature = -1"),
        ({"top_p": 0}, "top_p = 0"),
    ],
)
def test_requests_that_make_no_sense(talker, options, says):
    with pytest.raises(UnsupportedError, match=says) as raised:
        talker().generate(**{"prompt": "Who?"} | options)
    assert raised.value.hint


def test_end_tokens_come_from_all_three_files(tmp_path):
    folder = llama.write_talker(tmp_path / "talker", SAYS)
    (folder / "generation_config.json").write_text('{"eos_token_id": [3, 300, "x"]}')
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": 5}
    tokenizer = load(folder).tokenizer
    assert tokenizer.ends(config) == {3, 300, 5, llama.END}
    assert tokenizer.ends({}) == {3, 300, llama.END}
    (folder / "generation_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"generation_config.json: not a JSON object"):
        load(folder).generate("Who?")


@pytest.mark.parametrize("text", ["plain", "naïve 世界 👩‍👩‍👧‍👧 ende", "👍", "\ufffd!"])
def test_streamed_text_is_the_whole_text(talker, text):
    tokenizer = talker().tokenizer
    tokens = tokenizer.encode(text)
    assert tokens.tolist() == list(text.encode())
    streamed = Streamed(tokenizer)
    pieces = [streamed.push(int(token)) for token in tokens]
    assert "".join(pieces) + streamed.flush() == text == tokenizer.decode(tokens)


def test_bytes_that_never_become_a_character_are_not_kept_back(talker):
    streamed = Streamed(talker().tokenizer)
    pieces = [streamed.push(0x80) for _ in range(12)]
    assert "".join(pieces) == "\ufffd" * 12
    assert streamed.push(ord("a")) == "a"
    assert streamed.flush() == ""


def test_special_tokens_are_recognised_and_left_out(talker):
    tokenizer = talker().tokenizer
    tokens = tokenizer.encode("<|user|>Hi<|end|>")
    np.testing.assert_array_equal(tokens, [llama.END + 2, *b"Hi", llama.END])
    assert tokenizer.decode(tokens) == "Hi"
    assert tokenizer.size == llama.END + 4


def test_a_chat_goes_through_its_template(talker):
    model = talker(template=llama.TEMPLATE)
    assert model.chat.render(MESSAGES) == "<|system|>Be brief.<|user|>Hi<|assistant|>"
    assert model.generate(MESSAGES).text == SAYS
    assert model.generate("Hi").statistics.prompt_tokens == 4  # two special tokens, two bytes
    assert model.generate("Hi", chat=False).statistics.prompt_tokens == 2


def test_without_a_template_a_prompt_is_continued(talker):
    model = talker()
    assert not model.chat.available
    assert model.generate([{"role": "user", "content": "Who?"}]).text == SAYS


def test_templates_as_transformers_runs_them():
    assert (
        render("{% for m in messages %}\n  {{ m['role'] }}\n{% endfor %}\n{{ eos_token }}") == "  system\n  user\n</s>"
    )
    assert render("{{ messages | tojson }}", [{"content": "<é'>"}]) == '[{"content": "<é\'>"}]'
    assert render("{{ eos_token }}", eos_token={"content": "<e>"}) == "<e>"
    assert (
        render("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}") == "user"
    )
    assert render("{{ bos_token }}{{ add_generation_prompt }}{{ tools is none }}") == "TrueTrue"
    assert len(render("{{ strftime_now('%Y-%m-%d') }}")) == 10
    several = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    assert render(several) == "yes"


def test_a_template_file_comes_first():
    files = {"chat_template.jinja": b"file", "tokenizer_config.json": b'{"chat_template": "config"}'}
    assert Chat(Path("model"), files).render(MESSAGES) == "file"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% if %}", "Expected an expression"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ messages[0].update(role='x') }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "unsafe"),
        ("{{ self._TemplateReference__context.environment.globals }}", "unsafe"),
        ("{{ lipsum(99999999) }}", "'lipsum' is undefined"),
        ("{{ raise_exception.__globals__.json }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "loader"),
        ("{{ 'x' * 99999999999 }}", "larger than"),
        ("{{ 99999999999 * [0] }}", "larger than"),
        ("{{ 9 ** 999999999 }}", "larger than"),
        ("{{ '%99999999999d' % 1 }}", "not allowed"),
        ("{{ '{:99999999999}'.format(1) }}", "unsafe"),
        ("{{ 'x'.ljust(99999999999) }}", "unsafe"),
        ("{{ 'x' | center(99999999999) }}", "No filter named 'center'"),
        ("{% for i in range(99999999) %}x{% endfor %}", "Range too big"),
        ("{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}", "larger than"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[0].role.nothing.more }}", "UndefinedError"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("x" * (1 << 21), "2097152 characters"),
    ],
)
def test_templates_that_are_wrong_or_hostile(template, says):
    with pytest.raises(CheckpointError, match="the chat template failed") as raised:
        render(template)
    assert says in str(raised.value)
    assert "--raw" in raised.value.hint


def test_a_template_without_end_is_stopped(monkeypatch):
    monkeypatch.setattr(chat, "SECONDS", 0.2)
    began = monotonic()
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = b %}{% endfor %}{% endfor %}"
    with pytest.raises(CheckpointError, match=r"did not end within 0\.2 seconds"):
        render(loop)
    assert monotonic() - began < 5
