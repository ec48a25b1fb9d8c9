"""Whatever a stranger sends: every reader takes it or refuses it in halve's words. benchmarks/fuzz.py does the same
for hours, with an eye on which code is reached; what it found lies in tests/fuzz/corpus and is tried here each time.
"""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.readers import READERS, seeds
from halve.errors import HalveError
from tiny.examples import examples

NUMBERS = [b"\0" * 4, b"\xff" * 4, b"\0\0\0\x80", (1 << 60).to_bytes(8, "little"), b"\xff" * 8]
TEXTS = [b"{", b"}", b"[", b"]", b'"', b"null", b"-1", b"1e999", b"../", b"\\ud800", b"!!int ''", b"&a [*a]", b"\n"]
ODD = [None, True, -1, 0, 1.5, 1e308, 1 << 60, 1 << 70, "", "../x", "\ud800", [], {}, [None], {"": {}}, [1, [2]]]


@st.composite
def damaged(draw, content):
    """Bytes of ``content`` with some places replaced, doubled, added or lost."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(changed)))
        new = draw(st.binary(max_size=4) | st.sampled_from(NUMBERS + TEXTS))
        changed[at : at + draw(st.sampled_from([0, 1, len(new)]))] = new
    return bytes(changed[: draw(st.sampled_from([len(changed), draw(st.integers(0, len(changed)))]))])


def places(tree, path=()):
    """Every place of a JSON value, as the keys that lead there."""
    if path:
        yield path
    members = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, member in members:
        yield from places(member, (*path, key))


@st.composite
def odd(draw, tree):
    """``tree`` with a value or two of another kind, or gone: well-formed, and wrong."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 2))):
        *path, last = draw(st.sampled_from([*places(tree)] or [("x",)]))
        parent = tree
        for key in path:
            parent = parent[key]
        if draw(st.integers(0, 4)) == 0 and isinstance(parent, dict):
            parent.pop(last, None)
        else:
            parent[last] = copy.deepcopy(draw(st.sampled_from(ODD)))
    return json.dumps(tree).encode()


def as_object(content):
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def check(reader, folder, content):
    try:
        READERS[reader].read(folder, content)
    except HalveError as error:
        assert str(error)  # noqa: PT017 - what is whole is read
        assert error.hint  # noqa: PT017


@pytest.mark.parametrize("reader", READERS)
def test_what_was_a_bug_once(reader, tmp_path):
    assert seeds(reader)
    for content in seeds(reader):
        check(reader, tmp_path, content)


@pytest.mark.parametrize("reader", READERS)
def test_damage(reader, tmp_path):
    @examples(80)
    @given(content=st.sampled_from(seeds(reader)).flatmap(damaged))
    def run(content):
        check(reader, tmp_path, content)

    run()


@pytest.mark.parametrize("reader", [name for name in READERS if any(map(as_object, seeds(name)))])
def test_values_of_other_kinds(reader, tmp_path):
    trees = [tree for tree in map(as_object, seeds(reader)) if tree]

    @examples(150)
    @given(content=st.sampled_from(trees).flatmap(odd))
    def run(content):
        check(reader, tmp_path, content)

    run()
