"""Whatever bytes a file has: the header reader refuses it in its own words, or agrees with the safetensors library."""

import json
import string
import tracemalloc

import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from halve.checkpoint.base import DTYPES
from halve.checkpoint.safetensors import read_header
from halve.errors import CheckpointError
from tiny.examples import examples
from unit.hostile_safetensors import ATTACKS, container

shapes = st.lists(st.integers(0, 4), max_size=3)
names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=12).filter("__metadata__".__ne__)
text = st.text(st.characters(codec="utf-8"), max_size=8)
texts = st.dictionaries(text, text, min_size=1, max_size=3)  # of none, without tensors, safetensors 0.8 makes no JSON


@st.composite
def files(draw):
    """What the library writes."""
    tensors = {
        name: np.zeros(draw(shapes), DTYPES[draw(st.sampled_from(sorted(DTYPES)))])
        for name in draw(st.lists(names, max_size=4, unique=True))
    }
    return save(tensors, draw(st.none() | texts))


@st.composite
def damaged(draw):
    """A file of the library, or one that was made to attack, with a few bytes changed, added or lost."""
    content = bytearray(draw(files() | st.sampled_from([c for c, _ in ATTACKS.values() if len(c) < 2000])))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        new = draw(st.binary(max_size=3) | st.text('0123456789-.eE,:[]{}"\\ntruef', max_size=3).map(str.encode))
        content[at : at + draw(st.integers(0, 3))] = new
    if draw(st.booleans()) and len(content) >= 8:  # keep the length in front true to what was changed behind it
        header_end = content.rfind(b"}") + 1
        content[:8] = max(header_end - 8, 0).to_bytes(8, "little")
    return bytes(content)


sizes = st.integers(-2, 12) | st.sampled_from([1 << 31, 1 << 32, 1 << 61, 1 << 63, (1 << 64) - 1, 1 << 64, 10**30])
oddities = st.none() | st.booleans() | st.floats() | st.text(string.printable, max_size=4) | sizes
lists = st.lists(sizes, max_size=3) | st.lists(oddities, max_size=3)
entries = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["U8", "BF16", "F64", "F4", "I7"]), "shape": lists, "data_offsets": lists}
)


@st.composite
def near_headers(draw):
    """Headers of the right form with any numbers in it, over a few bytes of data."""
    header = draw(st.dictionaries(names | st.just("__metadata__"), entries | texts | oddities | lists, max_size=3))
    return container(json.dumps(header), bytes(draw(st.integers(0, 16))))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "x.safetensors"


def check(path, content):
    """Read ``content``; None where it was refused, in no other way than by a CheckpointError, and in little memory."""
    path.write_bytes(content)
    header, error = None, None
    tracemalloc.start()
    try:
        header = read_header(path)
    except CheckpointError as refused:
        error = refused
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < (1 << 16) + 20 * len(content)
    if error:
        assert str(error).startswith(str(path))
        assert error.hint
        return None
    data = content[header.data_start :]
    ours = {
        name: (located.info.dtype, list(located.info.shape), data[located.begin : located.end])
        for name, located in header.tensors.items()
    }
    theirs = {name: (t["dtype"], t["shape"], bytes(t["data"])) for name, t in safetensors.deserialize(content)}
    assert ours == theirs
    return header


@examples(200)
@given(content=files())
def test_what_the_library_writes_is_read(path, content):
    assert check(path, content) is not None


@examples(600)
@given(content=damaged())
def test_damage_is_refused_or_harmless(path, content):
    check(path, content)


@examples(600)
@given(content=near_headers())
def test_numbers_of_any_kind(path, content):
    check(path, content)


@examples(300)
@given(content=st.binary(max_size=64) | st.binary(max_size=64).map(container) | st.text(max_size=64).map(container))
def test_bytes_of_any_kind(path, content):
    check(path, content)
