"""Whatever tokenizer metadata says: the files are built and load, or the refusal is ours."""

import json
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from halve.checkpoint.gguf_metadata import Metadata
from halve.checkpoint.tokenizer import tokenizer_files
from halve.errors import HalveError
from tiny.examples import examples

PIECES = (
    "",
    " ",
    "a",
    "b",
    "ab",
    "Ġ",
    "▁",
    "  ",
    "\n",
    "<s>",
    "</s>",
    "$A",
    "$B:1",
    "a:1",
    "é",
    "\U0001f600",
    "\0",
    "<0x41>",
)
tokens = st.lists(
    st.sampled_from(PIECES) | st.text(max_size=3), min_size=1, max_size=12, unique_by=lambda token: token or object()
)
ids = st.integers(-1, 13) | st.just(2**32 - 1)
seldom = st.integers(0, 9).map(lambda number: number == 0)


@st.composite
def metadata(draw) -> dict[str, object]:
    """Tokenizer keys that fit each other more often than not."""
    pieces = draw(tokens)
    count = draw(st.integers(0, 13)) if draw(seldom) else len(pieces)
    merges = [f"{left} {right}" for left in pieces for right in pieces if left and right and left + right in pieces]
    values: dict[str, object] = {
        "model": "bert" if draw(seldom) else draw(st.sampled_from(["gpt2", "llama"])),
        "pre": "odd" if draw(seldom) else draw(st.sampled_from(["gpt-2", "llama-bpe", "qwen2", "tekken", "default"])),
        "tokens": pieces,
        "token_type": np.array(draw(st.lists(st.integers(0, 7), min_size=count, max_size=count)), np.int32),
        "merges": draw(st.lists(st.text(max_size=4), max_size=2)) if draw(seldom) else draw(st.permutations(merges)),
        "scores": np.array(draw(st.lists(st.floats(width=32), min_size=count, max_size=count)), np.float32),
        "add_bos_token": draw(seldom),
        "add_eos_token": draw(seldom),
        "add_space_prefix": draw(st.booleans()),
        **{f"{role}_token_id": draw(ids) for role in ("bos", "eos", "unknown", "padding", "eot")},
    }
    if draw(seldom):
        values[draw(st.sampled_from(sorted(values)))] = draw(st.sampled_from([None, 7, "x", True, [1]]))
    pairs = {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}
    return pairs | {"general.architecture": "llama", "llama.context_length": 64}


@examples(400)
@given(pairs=metadata(), text=st.text(max_size=20))
def test_tokenizers_are_built_whole_or_refused(pairs, text):
    path = Path("model.gguf")
    try:
        files = tokenizer_files(Metadata(path, pairs), vocab=12)
    except HalveError as error:
        assert str(error).startswith(str(path))  # noqa: PT017 - most of what is drawn is fine
        assert error.hint  # noqa: PT017
        return
    for name, content in files.items():
        if name.endswith(".json"):
            json.loads(content)
    if "tokenizer.json" in files:
        tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
        size = len(pairs["tokenizer.ggml.tokens"])
        assert tokenizer.get_vocab_size() == size
        assert all(id_ < size for id_ in tokenizer.encode(text).ids)
