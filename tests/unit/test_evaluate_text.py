"""Texts and the windows that are cut from them."""

import hashlib
import platform
from pydoc_data.topics import topics

import numpy as np
import pytest

from halve.errors import UnsupportedError
from halve.evaluate import passages, text
from halve.evaluate.text import Text
from halve.runtime.load import load
from tiny import speaker


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return load(speaker.write(tmp_path_factory.mktemp("plain"))).tokenizer


@pytest.fixture(scope="module")
def beginning(tmp_path_factory):
    return load(speaker.write(tmp_path_factory.mktemp("beginning"), beginning=True)).tokenizer


def test_windows_follow_one_another(plain):
    found = passages.cut(Text("t", speaker.TEXT), plain, windows=5, window=64)
    assert [p.number for p in found] == list(range(5))
    assert bytes(np.concatenate([p.tokens for p in found]).tolist()) == speaker.TEXT.encode()[: 5 * 64]


@pytest.mark.parametrize(("window", "scored"), [(64, 32), (9, 5), (8, 4)])
def test_the_second_half_is_scored(plain, window, scored):
    first = passages.cut(Text("t", speaker.TEXT), plain, windows=1, window=window)[0]
    assert len(first.targets) == scored == len(first.inputs) - first.start
    np.testing.assert_array_equal(first.targets, first.tokens[window // 2 :])
    np.testing.assert_array_equal(first.inputs, first.tokens[:-1])


def test_a_beginning_token_opens_every_window_and_counts(beginning):
    found = passages.cut(Text("t", speaker.TEXT), beginning, windows=3, window=64)
    assert {len(p.tokens) for p in found} == {64}
    opening = {int(p.tokens[0]) for p in found}
    assert len(opening) == 1
    assert min(opening) > 255
    assert bytes(np.concatenate([p.tokens[1:] for p in found]).tolist()) == speaker.TEXT.encode()[: 3 * 63]


def test_no_more_windows_than_there_are(plain):
    assert len(passages.cut(Text("t", "a" * 200), plain, windows=50, window=64)) == 3


def test_a_text_shorter_than_a_window(plain, beginning):
    with pytest.raises(UnsupportedError, match="notes has 63 tokens, fewer than a window of 64") as raised:
        passages.cut(Text("notes", "a" * 63), plain, windows=1, window=64)
    assert "--window" in raised.value.hint
    with pytest.raises(UnsupportedError, match="has 63 tokens"):
        passages.cut(Text("notes", "a" * 62), beginning, windows=1, window=64)
    assert passages.cut(Text("notes", "a" * 63), beginning, windows=1, window=64)


def test_the_default_text_is_pythons_documentation():
    found = text.default()
    assert platform.python_version() in found.name
    assert found.content.startswith(topics[min(topics)])
    assert found.sha256 == hashlib.sha256(found.content.encode()).hexdigest()
    assert len(found.content) > 300_000


def test_files(tmp_path):
    (tmp_path / "wide.txt").write_bytes("世界\n".encode())
    (tmp_path / "latin.txt").write_bytes("abc\xe9 ".encode("latin-1"))
    found = text.read(tmp_path / "wide.txt")
    assert (found.name, found.content) == ("wide.txt", "世界\n")
    with pytest.raises(UnsupportedError, match=r"not text in UTF-8.* at byte 3"):
        text.read(tmp_path / "latin.txt")
    with pytest.raises(UnsupportedError, match="No such file"):
        text.read(tmp_path / "missing.txt")
    with pytest.raises(UnsupportedError, match="directory"):
        text.read(tmp_path)
