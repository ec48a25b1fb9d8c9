"""GGUF files that halve writes, read by the `gguf` package: headers, offsets, order of rows, and what goes wrong."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import given, settings
from hypothesis import strategies as st

from halve.checkpoint.base import TensorInfo
from halve.checkpoint.gguf import GgufFile
from halve.checkpoint.gguf_writer import ENCODING, Destination, GgufModel, GgufWriter, file_bytes
from halve.errors import OutputError
from tiny.gguf_models import interleave

METADATA = {
    "general.architecture": "llama",
    "test.flag": True,
    "test.off": False,
    "test.text": "ü \U0001f600\nline",
    "test.empty": "",
    "test.count": 4_294_967_295,
    "test.number": 1e-05,
    "test.texts": ["", "a", "ß"],
    "test.none": [],
    "test.floats": np.array([0.5, -1e30], np.float32),
    "test.integers": np.array([-1, 2**31 - 1], np.int32),
    "test.flags": np.array([True, False]),
}
HEAD = 4
PLACES = {  # entry -> what it becomes: three query heads of four rows, blocks, and vectors
    "q.weight": Destination("blk.0.attn_q.weight", ENCODING["Q8_0"], (3 * HEAD, 64), HEAD),
    "q.bias": Destination("blk.0.attn_q.bias", ENCODING["F32"], (3 * HEAD,), HEAD),
    "up.weight": Destination("blk.0.ffn_up.weight", ENCODING["Q4_0"], (5, 96)),
    "norm.weight": Destination("output_norm.weight", ENCODING["F32"], (7,)),
    "embed.weight": Destination("token_embd.weight", ENCODING["BF16"], (9, 3)),
}
ENTRIES = [
    TensorInfo("q.weight", "U8", (3 * HEAD, 2 * 34)),
    TensorInfo("q.bias", "F32", (3 * HEAD,)),
    TensorInfo("up.weight", "U8", (5, 3 * 18)),
    TensorInfo("left.out", "F32", (3,)),
    TensorInfo("norm.weight", "F32", (7,)),
    TensorInfo("embed.weight", "BF16", (9, 3)),
]
FACTORS = np.array([1, 2, 4, 8], np.float32)


def model(metadata=METADATA, places=None):
    return GgufModel(metadata, PLACES if places is None else places, {"rope_freqs.weight": FACTORS})


def content(seed=0):
    """Bytes of every entry in Hugging Face order."""
    rng = np.random.default_rng(seed)
    return {e.name: rng.integers(0, 256, e.nbytes, dtype=np.uint8).tobytes() for e in ENTRIES}


def expected(name, data):
    """Bytes of an entry as they must lie in the file."""
    head, rows = PLACES[name].head, next(e for e in ENTRIES if e.name == name).rows
    if not head:
        return data
    return interleave(np.frombuffer(data, np.uint8).reshape(rows, -1), rows // head).tobytes()


def written(path: Path, pieces=None) -> Path:
    """Write everything; ``pieces``: (name, start, stop) in the order to write."""
    data = content()
    writer = GgufWriter(path, ENTRIES, model())
    for name, start, stop in pieces or [(e.name, 0, e.nbytes) for e in ENTRIES]:
        writer.write(name, start, data[name][start:stop])
    writer.finish()
    assert path.stat().st_size == writer.nbytes == file_bytes(model())
    return path


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "model.gguf"


def test_the_gguf_package_reads_metadata_and_tensors(path):
    theirs = GGUFReader(written(path))
    header = {"GGUF.version": 3, "GGUF.tensor_count": 6, "GGUF.kv_count": len(METADATA)}
    fields = {name: field.contents() for name, field in theirs.fields.items()}
    assert {name: fields.pop(name) for name in header} == header
    assert list(fields) == list(METADATA)
    for key, value in METADATA.items():
        ours = value.tolist() if isinstance(value, np.ndarray) else np.float32(value) if key == "test.number" else value
        assert fields[key] == ours, key
    tensors = {tensor.name: tensor for tensor in theirs.tensors}
    assert tensors.keys() == {place.name for place in PLACES.values()} | {"rope_freqs.weight"}
    assert np.array_equal(tensors["rope_freqs.weight"].data, FACTORS)
    for name, place in PLACES.items():
        tensor = tensors[place.name]
        assert (tensor.tensor_type.name, tuple(tensor.shape.tolist()[::-1])) == (place.encoding.name, place.shape)
        assert tensor.data_offset % 32 == 0
        assert tensor.data.tobytes() == expected(name, content()[name]), name


def test_our_reader_gives_the_metadata_back(path):
    with GgufFile(written(path)) as file:
        assert list(file.metadata) == list(METADATA)
        for key, value in METADATA.items():
            found = file.metadata[key]
            same = np.array_equal(found, value) if isinstance(value, np.ndarray) else found == value
            assert same or (key == "test.none" and not len(found)), key
            assert not isinstance(value, np.ndarray) or found.dtype == value.dtype


def test_the_same_model_gives_the_same_bytes(tmp_path):
    once, again = (written(tmp_path / name) for name in ("a.gguf", "b.gguf"))
    assert once.read_bytes() == again.read_bytes()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_pieces_of_any_size_in_any_order_give_the_same_bytes(tmp_path_factory, data):
    """Whole heads, broken heads, broken rows, single bytes."""
    folder = tmp_path_factory.mktemp("pieces")
    pieces = []
    for entry in ENTRIES:
        cuts = data.draw(st.lists(st.integers(0, entry.nbytes), max_size=6))
        edges = sorted({0, entry.nbytes, *cuts})
        pieces += [(entry.name, *edge) for edge in pairwise(edges)]
    shuffled = data.draw(st.permutations(pieces))
    assert written(folder / "a.gguf", shuffled).read_bytes() == written(folder / "b.gguf").read_bytes()


def test_several_threads_write_at_once(tmp_path):
    data = content()
    writer = GgufWriter(tmp_path / "a.gguf", ENTRIES, model())
    pieces = [(e.name, at, data[e.name][at : at + 5]) for e in ENTRIES for at in range(0, e.nbytes, 5)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda piece: writer.write(*piece), pieces))
    writer.finish()
    assert (tmp_path / "a.gguf").read_bytes() == written(tmp_path / "b.gguf").read_bytes()


def test_a_file_that_is_not_whole_never_gets_its_name(path):
    writer = GgufWriter(path, ENTRIES, model())
    data = content()
    for entry in ENTRIES[:-1]:
        writer.write(entry.name, 0, data[entry.name])
    writer.write("embed.weight", 0, data["embed.weight"][:10])
    writer.write("embed.weight", 20, data["embed.weight"][20:])
    with pytest.raises(OutputError, match=r"embed\.weight has 10 of its 54 bytes") as error:
        writer.finish()
    assert error.value.hint
    assert not path.exists()
    writer.discard()
    writer.discard()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "offset", "size"),
    [("q.weight", 800, 20), ("q.weight", -1, 4), ("norm.weight", 0, 29), ("up.weight", 0, 8)],
)
def test_bytes_without_a_place_are_the_callers_mistake(path, name, offset, size):
    writer = GgufWriter(path, ENTRIES, model())
    writer.write("up.weight", 0, bytes(8))
    with pytest.raises(ValueError, match=name):
        writer.write(name, offset, bytes(size))
    writer.discard()


def test_a_place_that_is_taken(path):
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists"):
        GgufWriter(path, ENTRIES, model())
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("value", [-1, 1 << 32, None, {"a": 1}])
def test_values_that_gguf_has_no_type_for(path, value):
    with pytest.raises(ValueError, match="test.wrong"):
        GgufWriter(path, ENTRIES, model({"test.wrong": value}))
    assert list(path.parent.iterdir()) == []


def test_two_tensors_of_one_name(path):
    twice = PLACES | {"norm.weight": Destination("token_embd.weight", ENCODING["F32"], (7,))}
    with pytest.raises(ValueError, match="one name"):
        GgufWriter(path, ENTRIES, model(places=twice))
