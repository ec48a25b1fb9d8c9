"""SmolLM2's tokenizer, rebuilt from its GGUF file, gives llama.cpp's ids on 1 MB of text, in transformers too."""

import json
from pathlib import Path

import jinja2
import pytest
from tokenizers import Tokenizer

from halve.checkpoint.gguf_checkpoint import GgufCheckpoint
from tiny.corpus import GOLDEN, corpus, digest

EXPECTED = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))["ids"]["SmolLM2-135M-Instruct"]
CHAT = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]
RENDERED = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi!<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.fixture(scope="module")
def folder(smollm2_gguf, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("smollm2")
    checkpoint = GgufCheckpoint(smollm2_gguf)
    for name, content in checkpoint.auxiliary().items():
        (folder / name).write_bytes(content)
    (folder / "config.json").write_text(json.dumps(checkpoint.config))
    checkpoint.close()
    return folder


def test_the_corpus_is_large_enough():
    assert sum(len(text.encode()) for text in corpus().values()) > 1_000_000
    assert EXPECTED.keys() == corpus().keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_ids_equal_llama_cpp(folder, name):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = corpus()[name]
    ids = tokenizer.encode(text).ids
    assert digest(ids) == EXPECTED[name]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_transformers_gives_the_same_ids(folder):
    transformers = pytest.importorskip("transformers", reason="the extra `oracle` is not installed")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, model_max_length=1 << 30)
    for name, text in corpus().items():
        assert digest(tokenizer(text)["input_ids"]) == EXPECTED[name], name
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id) == (
        1,
        2,
        2,
        0,
    )
    assert tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True) == RENDERED


def test_the_chat_template_is_whole(folder):
    template = jinja2.Template((folder / "chat_template.jinja").read_text(encoding="utf-8"))
    assert template.render(messages=CHAT, add_generation_prompt=True) == RENDERED
