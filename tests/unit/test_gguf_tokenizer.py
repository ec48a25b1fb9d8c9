"""The tokenizer rebuilt from GGUF metadata gives the ids that llama.cpp gives."""

import json
import logging
import re
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers

from halve.checkpoint.gguf_checkpoint import GgufCheckpoint
from halve.checkpoint.pretokenizers import PRETOKENIZERS
from halve.errors import CheckpointError, UnsupportedError
from tiny.corpus import GOLDEN, digest, excerpts
from tiny.gguf_models import TinyModel
from tiny.vocabularies import byte_level, cases, sentencepiece

EXPECTED = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
# llama.cpp only approximates the patterns of these; their own patterns are the oracle, in another test.
APPROXIMATED = {"tekken": "tekken", "gpt-4o": "gpt-4o", "llama4": "gpt-4o"}
CASES = cases()
COMPARED = [name for name in CASES if name.removeprefix("byte_level ") not in APPROXIMATED]


def write(folder: Path, metadata: dict[str, Any], **model: Any) -> Path:
    vocab = model.pop("vocab", len(metadata.get("tokenizer.ggml.tokens") or [0]))
    size = {"layers": 1, "hidden": 32, "intermediate": 32, "heads": 1, "kv_heads": 1, "head": 32}
    return TinyModel(vocab=vocab, metadata=metadata, **size, **model).write(folder / "tiny.gguf")


def files(folder: Path, metadata: dict[str, Any], **model: Any) -> dict[str, bytes]:
    checkpoint = GgufCheckpoint(write(folder, metadata, **model))
    try:
        return checkpoint.auxiliary()
    finally:
        checkpoint.close()


def tokenizer(folder: Path, metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(files(folder, metadata)["tokenizer.json"].decode())


@cache
def encoded(tokenizer_json: bytes, text: str) -> dict[str, Any]:
    """Names of one row give the same tokenizer: encode with it once."""
    return digest(Tokenizer.from_str(tokenizer_json.decode()).encode(text).ids)


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return excerpts()


@pytest.mark.parametrize("name", COMPARED)
def test_ids_equal_llama_cpp(name, texts, tmp_path):
    metadata = CASES[name]
    row = PRETOKENIZERS.get(str(metadata["tokenizer.ggml.pre"]))
    built = files(tmp_path, metadata)["tokenizer.json"]
    for text in texts:
        # llama.cpp never normalizes: where the model does, compare with what llama.cpp makes of normalized text.
        oracle = "unicode, NFC" if row and row.normalization and text == "unicode" else text
        assert encoded(built, texts[text]) == EXPECTED["ids"][name][oracle], text


def test_every_way_to_split_is_compared_with_an_oracle():
    assert {f"byte_level {name}" for name in PRETOKENIZERS} <= EXPECTED["ids"].keys()
    assert set(APPROXIMATED.values()) == EXPECTED["splits"].keys()


@pytest.mark.parametrize("name", APPROXIMATED)
def test_splits_equal_the_publishers_patterns(name, texts):
    (pattern,) = PRETOKENIZERS[name].patterns
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    for text in texts:
        words = [end - start for _, (start, end) in split.pre_tokenize_str(texts[text])]
        assert digest(words) == EXPECTED["splits"][APPROXIMATED[name]][text], text


@pytest.mark.parametrize(
    "name", ["default", "gpt-2", "smollm", "llama-bpe", "deepseek-r1-qwen", "tekken", "deepseek-v3"]
)
def test_byte_level_decoding_gives_the_text_back(name, texts, tmp_path):
    built = tokenizer(tmp_path, byte_level(name, add_bos_token=False))
    for text in texts.values():
        assert built.decode(built.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_decoding_gives_the_text_back(prefix, texts, tmp_path):
    built = tokenizer(tmp_path, sentencepiece(add_space_prefix=prefix, add_bos_token=False))
    for name in ("licences", "topics", "code", "unicode"):
        # With a prefix, llama.cpp puts one after every user-defined token too, of which runs of spaces are made here.
        text = re.sub(" +", " ", texts[name]) if prefix else texts[name]
        assert built.decode(built.encode(text).ids) == text, name


def test_qwen2_normalizes_text(texts, tmp_path):
    built = tokenizer(tmp_path, byte_level("qwen2"))
    text = texts["unicode"]
    assert text != unicodedata.normalize("NFC", text)
    assert built.encode(text).ids == built.encode(unicodedata.normalize("NFC", text)).ids


def test_special_tokens(tmp_path):
    built = files(tmp_path, byte_level("gpt-2"))
    added = {token["content"]: token["special"] for token in json.loads(built["tokenizer.json"])["added_tokens"]}
    assert added == {"<|endoftext|>": True, "<|im_start|>": True, "<|im_end|>": True, "<tool>": False, "\n\n\n": False}
    roles = {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|im_end|>",
    }
    assert json.loads(built["special_tokens_map.json"]) == roles
    config = json.loads(built["tokenizer_config.json"])
    assert config.items() >= roles.items()
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["model_max_length"] == 128
    assert config["added_tokens_decoder"]["1"] == {
        "content": "<|im_start|>",
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }


def test_a_role_makes_any_token_special(tmp_path):
    metadata = byte_level("gpt-2")
    ending = metadata["tokenizer.ggml.tokens"].index("the")
    built = files(tmp_path, metadata | {"tokenizer.ggml.eot_token_id": ending})
    assert json.loads(built["tokenizer_config.json"])["added_tokens_decoder"][str(ending)]["special"] is True
    assert json.loads(built["generation_config.json"])["eos_token_id"] == [2, ending]


@pytest.mark.parametrize(("bos", "eos"), [(False, False), (True, False), (False, True), (True, True)])
def test_add_bos_and_add_eos_are_honoured(bos, eos, tmp_path):
    built = files(tmp_path, byte_level("gpt-2", add_bos_token=bos, add_eos_token=eos))
    ids = Tokenizer.from_str(built["tokenizer.json"].decode()).encode("the").ids
    assert (ids[0] == 1, ids[-1] == 2) == (bos, eos)
    pair = Tokenizer.from_str(built["tokenizer.json"].decode()).encode("the", "the").ids
    assert pair == 2 * ids
    config = json.loads(built["tokenizer_config.json"])
    assert (config["add_bos_token"], config["add_eos_token"]) == (bos, eos)


def test_generation_config(tmp_path):
    assert json.loads(files(tmp_path, byte_level("gpt-2"))["generation_config.json"]) == {
        "_from_model_config": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }


def test_chat_template(tmp_path):
    template = "{% for message in messages %}{{ message.content }}é\n{% endfor %}"
    built = files(tmp_path, byte_level("gpt-2") | {"tokenizer.chat_template": template})
    assert built["chat_template.jinja"].decode() == template
    assert json.loads(built["tokenizer_config.json"])["chat_template"] == template


def test_named_chat_templates_never_become_file_names(tmp_path):
    named = {
        "tokenizer.chat_template": "plain",
        "tokenizer.chat_templates": ["default", "../../tool_use"],
        "tokenizer.chat_template.../../tool_use": "tools",
    }
    built = files(tmp_path, byte_level("gpt-2") | named)
    assert json.loads(built["tokenizer_config.json"])["chat_template"] == [
        {"name": "default", "template": "plain"},
        {"name": "../../tool_use", "template": "tools"},
    ]
    assert set(built) == {
        "generation_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_without_a_tokenizer_only_the_generation_config_is_left(tmp_path):
    assert set(files(tmp_path, {})) == {"generation_config.json"}


def test_fewer_tokens_than_rows_are_fine(tmp_path):
    metadata = byte_level("gpt-2")
    tokens = len(metadata["tokenizer.ggml.tokens"])
    checkpoint = GgufCheckpoint(write(tmp_path, metadata, vocab=tokens + 30))
    assert checkpoint.config["vocab_size"] == tokens + 30
    assert Tokenizer.from_str(checkpoint.auxiliary()["tokenizer.json"].decode()).get_vocab_size() == tokens
    checkpoint.close()


def test_empty_tokens_get_llama_cpps_names(tmp_path):
    metadata = byte_level("gpt-2")
    tokens = metadata["tokenizer.ggml.tokens"]
    tokens += ["", ""]
    metadata["tokenizer.ggml.token_type"] += [5, 5]
    built = tokenizer(tmp_path, metadata)
    assert built.id_to_token(len(tokens) - 1) == f"[EMPTY_{len(tokens) - 1}]"


def test_a_special_token_out_of_range_is_ignored_and_logged(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "halve"):
        built = files(tmp_path, byte_level("gpt-2", padding_token_id=2**32 - 1))
    assert "pad_token_id" not in json.loads(built["generation_config.json"])
    assert "padding_token_id = 4294967295 is outside the vocabulary" in caplog.text


@pytest.mark.parametrize(
    ("metadata", "kind", "says"),
    [
        (byte_level("my-own"), UnsupportedError, "the way called 'my-own'"),
        (byte_level(model="t5"), UnsupportedError, "tokenizer model 't5'"),
        (sentencepiece(scores=[-1000.0] * 1740), UnsupportedError, "all pieces of the tokenizer score the same"),
        (byte_level(merges=["t he", "q€ x"]), CheckpointError, "merge 'q€ x' names what is no token"),
        (byte_level(merges=["alone"]), CheckpointError, "merge 'alone' names what is no token"),
        (byte_level(merges=[""]), CheckpointError, "merge '' names what is no token"),
        (byte_level(merges=None), CheckpointError, r"no tokenizer\.ggml\.merges"),
        (byte_level(merges=[1, 2]), CheckpointError, "must be an array of strings, not an array of 2"),
        (byte_level(token_type=[1, 1]), CheckpointError, r"token_type has 2 entries for 1767 tokens"),
        (byte_level(token_type=[1.0, 1.0]), CheckpointError, "must be an array of integers"),
        (byte_level(tokens=["a", "b", "a"]), CheckpointError, "token 'a' appears 2 times"),
        (byte_level(tokens="abc"), CheckpointError, "must be an array of strings, not 'abc'"),
        (byte_level(bos_token_id=None, add_bos_token=True), CheckpointError, "the bos token is 'missing'"),
        (byte_level(eos_token_id=1766, add_eos_token=True), CheckpointError, r"the eos token is '\\n\\n\\n'"),
        (byte_level(add_bos_token=1), CheckpointError, r"add_bos_token must be a bool, not 1"),
        (sentencepiece(scores=[0.5]), CheckpointError, "scores has 1 entries for 1740 tokens"),
        (sentencepiece(scores=None), CheckpointError, "scores has 0 entries for 1740 tokens"),
        (byte_level() | {"tokenizer.chat_template": 7}, CheckpointError, "must be a string, not 7"),
        (
            byte_level() | {"tokenizer.chat_templates": ["rag"]},
            CheckpointError,
            r"the metadata has no tokenizer\.chat_template\.rag",
        ),
    ],
)
def test_what_cannot_be_rebuilt_is_refused(metadata, kind, says, tmp_path):
    checkpoint = GgufCheckpoint(write(tmp_path, metadata, vocab=1767))
    with pytest.raises(kind, match=says) as error:
        checkpoint.auxiliary()
    assert str(checkpoint.path) in str(error.value)
    assert error.value.hint
    # The weights stay readable: a model can be quantized without its tokenizer.
    embedding = checkpoint.tensors["model.embed_tokens.weight"]
    assert checkpoint.read(embedding.name, 0, 1, memoryview(bytearray(embedding.row_bytes))).nbytes
    checkpoint.close()


def test_an_unknown_way_to_split_names_the_known_ones(tmp_path):
    with pytest.raises(UnsupportedError) as error:
        files(tmp_path, byte_level("my-own"))
    assert all(name in error.value.hint for name in PRETOKENIZERS)


def test_more_tokens_than_rows_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="1767 tokens, the embedding 300 rows"):
        files(tmp_path, byte_level(), vocab=300)
