"""The safetensors reader and writer against the safetensors library, and against files that mean harm."""

import errno
import hashlib
import json
import os
import random
import resource
import stat
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save, save_file

from halve.checkpoint.base import DTYPES, TensorInfo
from halve.checkpoint.safetensors import MAX_HEADER, Header, ShardWriter, read_header
from halve.errors import CheckpointError, OutputError, UnsupportedError
from unit.hostile_safetensors import ATTACKS, LENIENT, bracket_bombs, container

NAMES = {dtype: name for name, dtype in DTYPES.items()}


def samples():
    """One tensor of every dtype, among them a scalar, a vector, and tensors without elements."""
    rng = np.random.default_rng(0)
    shapes = [(), (5,), (3, 4), (2, 1, 3), (0,), (4, 0)]
    tensors = {}
    for i, (name, dtype) in enumerate(DTYPES.items()):
        shape = shapes[i % len(shapes)]
        raw = rng.integers(0, 2 if name == "BOOL" else 256, int(np.prod(shape)) * dtype.itemsize, np.uint8)
        tensors[f"a.{name}"] = raw.view(dtype).reshape(shape)
    return tensors


def infos(tensors):
    return [TensorInfo(name, NAMES[tensor.dtype], tensor.shape) for name, tensor in tensors.items()]


def write(path, tensors, metadata=None):
    writer = ShardWriter(path, infos(tensors), metadata or {})
    for name, tensor in tensors.items():
        writer.write(name, 0, tensor.tobytes())
    writer.finish()
    return writer


def by_library(content):
    """What the safetensors library reads: name -> dtype, shape, bytes."""
    return {n: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for n, t in safetensors.deserialize(content)}


def by_us(path):
    header, content = read_header(path), path.read_bytes()
    data = content[header.data_start :]
    return {
        name: (located.info.dtype, located.info.shape, data[located.begin : located.end])
        for name, located in header.tensors.items()
    }


# Reading


def test_files_of_the_library_are_read(tmp_path):
    tensors = samples()
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, {"format": "pt", "层": '\u2028 \\ " \u0000 😀'})
    assert by_us(path) == by_library(path.read_bytes())
    assert {dtype for dtype, _, _ in by_us(path).values()} == set(DTYPES)
    with safetensors.safe_open(path, "np") as opened:
        assert read_header(path).metadata == opened.metadata()


@pytest.mark.parametrize(
    ("header", "metadata"),
    [("{}", {}), (' {\n\t"__metadata__" : { "a" : "b" } \r\n} ', {"a": "b"}), ('{"__metadata__":null}', {})],
)
def test_files_without_tensors_are_read(tmp_path, header, metadata):
    path = tmp_path / "x.safetensors"
    path.write_bytes(container(header))
    assert read_header(path) == Header({}, metadata, 8 + len(header))
    assert by_library(path.read_bytes()) == {}


def test_tensors_come_in_the_order_of_their_data(tmp_path):
    entries = {
        n: {"dtype": "U8", "shape": [2], "data_offsets": [2 * i, 2 * i + 2]}
        for n, i in zip("abcd", (2, 0, 3, 1), strict=True)
    }
    path = tmp_path / "x.safetensors"
    path.write_bytes(container(entries, b"BBDDAACC"))
    assert list(read_header(path).tensors) == ["b", "d", "a", "c"]
    assert by_us(path) == by_library(path.read_bytes())


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_files_are_refused(tmp_path, attack):
    content, why = ATTACKS[attack]
    path = tmp_path / "attack.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=why) as raised:
        read_header(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert raised.value.hint
    assert len(str(raised.value)) < 6000
    if attack in LENIENT:
        safetensors.deserialize(content)
    else:
        with pytest.raises(safetensors.SafetensorError):
            safetensors.deserialize(content)


def test_a_header_above_the_limit_is_not_even_read(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes((MAX_HEADER + 1).to_bytes(8, "little"))
    os.truncate(path, MAX_HEADER + 100)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="that are allowed"):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("bomb", bracket_bombs(3))
def test_a_header_of_brackets_does_not_take_memory(tmp_path, bomb):
    size = 8 << 20
    path = tmp_path / "x.safetensors"
    path.write_bytes(container(bracket_bombs(size)[bomb]))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * size
    finally:
        tracemalloc.stop()


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="pipe: not a regular file"):
        read_header(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_header(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be opened: No such file"):
        read_header(tmp_path / "missing")


# Writing


def test_files_of_ours_are_read_by_the_library(tmp_path):
    tensors = samples()
    write(tmp_path / "x.safetensors", tensors, {"format": "pt"})
    expected = {n: (NAMES[t.dtype], t.shape, t.tobytes()) for n, t in tensors.items()}
    content = (tmp_path / "x.safetensors").read_bytes()
    assert by_library(content) == expected == by_us(tmp_path / "x.safetensors")
    with safetensors.safe_open(tmp_path / "x.safetensors", "np") as opened:
        assert opened.metadata() == {"format": "pt"}
        np.testing.assert_array_equal(opened.get_tensor("a.F32"), tensors["a.F32"])


def test_in_the_librarys_order_the_bytes_are_the_librarys(tmp_path):
    tensors = samples() | {'ünïcode "名"\\': np.arange(3, dtype=np.int16)}
    content = save(tensors, {"format": "pt"})
    (tmp_path / "theirs.safetensors").write_bytes(content)
    ordered = {name: tensors[name] for name in read_header(tmp_path / "theirs.safetensors").tensors}
    # The header's order decides among tensors without elements, which have no place of their own.
    length = int.from_bytes(content[:8], "little")
    ordered = {name: ordered[name] for name in json.loads(content[8 : 8 + length]) if name in ordered}
    write(tmp_path / "ours.safetensors", ordered, {"format": "pt"})
    assert (tmp_path / "ours.safetensors").read_bytes() == content


def test_order_alignment_and_hash_of_the_header(tmp_path):
    tensors = {name: np.arange(n, dtype=np.uint8) for n, name in enumerate(["z", "a", "m.b", "m.a", "0"])}
    writer = write(tmp_path / "x.safetensors", tensors)
    content = (tmp_path / "x.safetensors").read_bytes()
    header = read_header(tmp_path / "x.safetensors")
    assert list(json.loads(content[8 : header.data_start])) == list(tensors)
    assert content[header.data_start :] == b"".join(tensor.tobytes() for tensor in tensors.values())
    assert header.data_start % 8 == 0
    assert writer.header_sha256 == hashlib.sha256(content[: header.data_start]).hexdigest()
    assert writer.nbytes == len(content)
    assert [entry.name for entry in writer.entries] == list(tensors)


def test_a_file_without_tensors(tmp_path):
    write(tmp_path / "x.safetensors", {})
    assert by_library((tmp_path / "x.safetensors").read_bytes()) == {}


def test_threads_write_parts_in_any_order(tmp_path):
    rng = np.random.default_rng(1)
    tensors = {f"t{i}": rng.integers(0, 256, int(n), np.uint8) for i, n in enumerate(rng.integers(0, 40_000, 12))}
    writer = ShardWriter(tmp_path / "x.safetensors", infos(tensors), {})
    parts = []
    for name, tensor in tensors.items():
        cuts = [0, *sorted(rng.integers(0, len(tensor) + 1, 20).tolist()), len(tensor)]
        parts += [(name, start, tensor[start:stop].data) for start, stop in pairwise(cuts)]
    random.Random(2).shuffle(parts)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda part: writer.write(*part), parts))
    writer.finish()
    found = by_library((tmp_path / "x.safetensors").read_bytes())
    assert {name: data for name, (_, _, data) in found.items()} == {n: t.tobytes() for n, t in tensors.items()}


def test_the_name_appears_when_the_file_is_whole(tmp_path):
    path = tmp_path / "x.safetensors"
    writer = ShardWriter(path, [TensorInfo("a", "U8", (4,))], {})
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors.part"]
    writer.write("a", 0, b"12")
    with pytest.raises(OutputError, match="2 bytes have not been written, of a first"):
        writer.finish()
    assert not path.exists()
    writer.write("a", 2, b"34")
    writer.finish()
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    writer.discard()
    assert path.exists()
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_discard_leaves_nothing(tmp_path):
    writer = ShardWriter(tmp_path / "x.safetensors", [TensorInfo("a", "U8", (4,))], {})
    writer.write("a", 0, b"12")
    writer.discard()
    writer.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("offset", "data"), [(0, b"12345"), (-1, b"1"), (4, b"1"), (1, b"12"), (0, b"12"), (5, b""), (-1, b"")]
)
def test_bytes_without_a_place_are_refused(tmp_path, offset, data):
    writer = ShardWriter(tmp_path / "x.safetensors", [TensorInfo(n, "U8", (4,)) for n in "ab"], {})
    writer.write("a", 1, b"x")
    writer.write("a", 3, b"z")
    with pytest.raises(ValueError, match="have no place"):
        writer.write("a", offset, data)
    writer.write("a", 0, b"w")
    writer.write("a", 2, b"y")
    writer.write("b", 0, b"")
    writer.write("b", 0, b"1234")
    writer.finish()
    assert by_library((tmp_path / "x.safetensors").read_bytes())["a"][2] == b"wxyz"


def test_arrays_of_any_type_may_be_written(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    writer = ShardWriter(tmp_path / "x.safetensors", [TensorInfo("a", "F32", (2, 3))], {})
    writer.write("a", 0, array.data)
    writer.finish()
    assert by_library((tmp_path / "x.safetensors").read_bytes())["a"] == ("F32", (2, 3), array.tobytes())


@pytest.mark.parametrize("names", [("a", "a"), ("__metadata__", "a")])
def test_names_that_cannot_stand_together(tmp_path, names):
    with pytest.raises(UnsupportedError, match="two tensors would be called"):
        ShardWriter(tmp_path / "x.safetensors", [TensorInfo(n, "U8", (1,)) for n in names], {})
    assert list(tmp_path.iterdir()) == []


def test_a_header_that_nobody_would_read_is_refused(tmp_path):
    with pytest.raises(OutputError, match="more than the 100000000"):
        ShardWriter(tmp_path / "x.safetensors", [], {"a": "b" * MAX_HEADER})


@pytest.mark.parametrize("taken", ["x.safetensors", "x.safetensors.part"])
def test_files_of_others_are_left_alone(tmp_path, taken):
    (tmp_path / taken).write_text("mine")
    with pytest.raises(OutputError, match="exists") as raised:
        ShardWriter(tmp_path / "x.safetensors", [], {})
    assert raised.value.hint
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {taken: "mine"}


def test_a_place_that_is_not_there(tmp_path):
    (tmp_path / "file").touch()
    for folder in ("missing", "file"):
        with pytest.raises(OutputError, match="cannot be written") as raised:
            ShardWriter(tmp_path / folder / "x.safetensors", [], {})
        assert raised.value.hint


def failing(code):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return fail


CODES = [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("call", ["posix_fallocate", "ftruncate", "pwrite", "fsync", "rename"])
def test_a_disk_that_fails_is_reported_and_leaves_nothing(tmp_path, monkeypatch, call, code):
    monkeypatch.setattr(os, call, failing(code))
    writer = None
    with pytest.raises(OutputError, match=f"cannot be written: {os.strerror(code)}") as raised:  # noqa: PT012
        writer = ShardWriter(tmp_path / "x.safetensors", [TensorInfo("a", "U8", (4,))], {})
        writer.write("a", 0, b"1234")
        writer.finish()
    if code in (errno.ENOSPC, errno.EDQUOT):
        assert "free some" in raised.value.hint
        assert "bytes" in str(raised.value)
    assert raised.value.hint
    if writer:
        writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_failed_is_never_finished(tmp_path, monkeypatch):
    writer = ShardWriter(tmp_path / "x.safetensors", [TensorInfo("a", "U8", (4,))], {})
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing(errno.ENOSPC))
        with pytest.raises(OutputError, match="No space"):
            writer.write("a", 0, b"1234")
    with pytest.raises(OutputError, match="4 bytes have not been written"):
        writer.finish()
    writer.discard()


def test_short_writes_go_on(tmp_path, monkeypatch):
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: whole(fd, data[:3], offset))
    tensors = {"a": np.arange(100, dtype=np.uint8)}
    write(tmp_path / "x.safetensors", tensors)
    assert by_library((tmp_path / "x.safetensors").read_bytes())["a"][2] == tensors["a"].tobytes()


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, None])
def test_file_systems_that_cannot_reserve_space(tmp_path, monkeypatch, code):
    if code is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", failing(code))
    tensors = samples()
    write(tmp_path / "x.safetensors", tensors)
    assert len(by_library((tmp_path / "x.safetensors").read_bytes())) == len(tensors)


def test_a_real_limit_on_file_size(tmp_path):
    program = f"""
from pathlib import Path
from halve.checkpoint.base import TensorInfo
from halve.checkpoint.safetensors import ShardWriter
from halve.errors import OutputError
try:
    ShardWriter(Path({str(tmp_path)!r}) / "x.safetensors", [TensorInfo("a", "U8", (1 << 20,))], {{}})
except OutputError as error:
    print(error, "|", error.hint)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert "cannot be written: File too large" in done.stdout
    assert "smaller shards" in done.stdout
    assert list(tmp_path.iterdir()) == []
