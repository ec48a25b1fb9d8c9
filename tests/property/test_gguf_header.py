"""Whatever bytes a file has: the GGUF reader refuses it in its own words, or agrees with the gguf package."""

import struct
from functools import cache

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import given
from hypothesis import strategies as st

from halve.checkpoint.base import read_array
from halve.checkpoint.gguf import GgufFile
from halve.checkpoint.gguf_checkpoint import GgufCheckpoint
from halve.errors import HalveError
from tiny.examples import examples
from tiny.gguf_bytes import ARRAY, BOOL, F32, F64, HEADER, STRING, Container, array, pair, tensor, text, u32, u64
from tiny.gguf_models import TinyModel

SMALL = {"layers": 1, "hidden": 32, "intermediate": 32, "heads": 1, "kv_heads": 1, "head": 32, "vocab": 40}
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", F32: "f", BOOL: "?", 10: "Q", 11: "q", F64: "d"}
EXTREMES = (
    0,
    1,
    2,
    3,
    7,
    9,
    13,
    31,
    255,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**60,
    2**63 - 1,
    2**63,
    2**64 - 1,
)


def number(kind: int, value: float) -> bytes:
    return struct.pack(f"<{NUMBERS[kind]}", value)


def values_of(kind: int) -> st.SearchStrategy[float]:
    match NUMBERS[kind]:
        case "?":
            return st.booleans()
        case "f" | "d":
            return st.floats(width=32 if kind == F32 else 64, allow_nan=False)
        case code:
            bits = 8 * struct.calcsize(code)
            low = -(2 ** (bits - 1)) if code.islower() else 0
            return st.integers(low, low + 2**bits - 1)


texts = st.text(st.characters(codec="utf-8"), max_size=12)
numbers = st.sampled_from(sorted(NUMBERS)).flatmap(lambda kind: st.tuples(st.just(kind), values_of(kind)))


@st.composite
def entries(draw) -> tuple[int, bytes, object]:
    """One metadata value: its type, its bytes, and what it is."""
    match draw(st.sampled_from(("number", "text", "numbers", "texts", "arrays"))):
        case "number":
            kind, value = draw(numbers)
            return kind, number(kind, value), value
        case "text":
            value = draw(texts)
            return STRING, text(value), value
        case "numbers":
            kind = draw(st.sampled_from(sorted(NUMBERS)))
            items = draw(st.lists(values_of(kind), max_size=5))
            return ARRAY, array(kind, [number(kind, item) for item in items]), items
        case "texts":
            items = draw(st.lists(texts, max_size=5))
            return ARRAY, array(STRING, [text(item) for item in items]), items
        case _:
            rows = draw(st.lists(st.lists(st.integers(0, 255), max_size=3), max_size=3))
            return ARRAY, array(ARRAY, [array(0, [bytes([item]) for item in row]) for row in rows]), rows


metadata = st.dictionaries(st.text("abc._0", min_size=1, max_size=8), entries(), max_size=6)


def plain(value: object) -> object:
    """Arrays as lists."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [plain(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("gguf") / "fuzzed.gguf"


@examples(200)
@given(content=metadata)
def test_metadata_is_read_as_it_was_written(path, content):
    pairs = [pair(key, kind, raw) for key, (kind, raw, _) in content.items()]
    file = Container(pairs=pairs, tensors=[tensor("a", [3])], data=bytes(12))
    path.write_bytes(file.content())
    with GgufFile(path) as ours:
        assert {key: plain(value) for key, value in ours.metadata.items()} == {
            # A number is read as the shortest decimal that gives the same float32.
            key: float(str(np.float32(value))) if kind == F32 else value
            for key, (kind, _, value) in content.items()
        }
        assert ours.tensors["a"].offset == len(file.content()) - 12


@examples(100)
@given(shapes=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=5))
def test_the_tensor_table_is_read_as_the_gguf_package_does(path, shapes):
    offsets = np.cumsum([0, *(-(-4 * int(np.prod(shape)) // 32) * 32 for shape in shapes)]).tolist()
    table = [tensor(f"t{i}", shape, offset=offsets[i]) for i, shape in enumerate(shapes)]
    path.write_bytes(Container(tensors=table, data=bytes(offsets[-1])).content())
    theirs = [(t.name, tuple(t.shape.tolist())[::-1], t.data_offset) for t in GGUFReader(path).tensors]
    with GgufFile(path) as ours:
        assert [(t.name, t.shape, t.offset) for t in ours.tensors.values()] == theirs


@examples(200)
@given(content=st.binary(max_size=200), start=st.sampled_from([b"", b"GGUF", b"GGUF" + u32(3), b"GGUF" + u32(2)]))
def test_any_bytes_end_in_an_error_of_ours_or_are_a_file(path, content, start):
    path.write_bytes(start + content)
    try:
        GgufFile(path).close()
    except HalveError as error:
        assert str(path) in str(error)  # noqa: PT017 - a file may also be whole
        assert error.hint  # noqa: PT017


@cache
def whole(kind: str) -> bytes:
    """A model with a tokenizer, small enough to be damaged everywhere."""
    letters = [*"abcdefgh", "ab", "cd", "abcd"]
    special = ["<unk>", "<s>", "</s>"]
    tokenizer = {
        "gpt2": {"pre": "llama-bpe", "merges": ["a b", "c d", "ab cd"]},
        "llama": {"scores": [0.0] * 3 + [-9.0] * 8 + [-1.0, -2.0, -3.0]},
    }[kind]
    pairs = {"model": kind, "tokens": special + letters, "token_type": [2, 3, 3] + [1] * 11, **tokenizer}
    pairs |= {"bos_token_id": 1, "eos_token_id": 2, "add_bos_token": True, "add_eos_token": False}
    keys = {f"tokenizer.ggml.{key}": value for key, value in pairs.items()}
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        model = TinyModel(encoding="Q8_0", metadata=keys | {"tokenizer.chat_template": "{{ x }}"}, **SMALL)
        return model.write(Path(folder) / "whole.gguf").read_bytes()


@st.composite
def damaged(draw) -> bytes:
    """A model with some bytes of its header replaced, added or lost."""
    content = bytearray(whole(draw(st.sampled_from(["gpt2", "llama"]))))
    end = content.rindex(b"output_norm.weight") + 100
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(4, end) | st.integers(4, HEADER))
        new = draw(
            st.binary(max_size=8)
            | st.sampled_from(EXTREMES).map(u64)
            | st.sampled_from(EXTREMES).map(lambda value: u32(value % 2**32))
        )
        content[at : at + draw(st.sampled_from([0, len(new), len(new), len(new)]))] = new
    if draw(st.integers(0, 4)) == 0:
        del content[draw(st.integers(0, len(content))) :]
    return bytes(content)


@examples(600)
@given(content=damaged())
@pytest.mark.filterwarnings("error")
def test_a_damaged_model_ends_in_an_error_of_ours_or_is_read_whole(path, content):
    path.write_bytes(content)
    try:
        checkpoint = GgufCheckpoint(path)
    except HalveError as error:
        assert str(path) in str(error)  # noqa: PT017 - the damage may also be harmless
        assert error.hint  # noqa: PT017
        return
    try:
        for name, info in checkpoint.tensors.items():
            assert read_array(checkpoint, name).shape == info.shape
        assert "generation_config.json" in checkpoint.auxiliary()
    except HalveError as error:
        assert str(path) in str(error)  # noqa: PT017
        assert error.hint  # noqa: PT017
    finally:
        checkpoint.close()
