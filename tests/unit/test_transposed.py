"""Matrices that lie [in, out], written and read by rows of [out, in] through strips smaller than they are."""

import threading
from contextlib import closing

import numpy as np
import pytest

from halve.checkpoint import transposed
from halve.checkpoint.base import TensorInfo, read_array
from halve.checkpoint.safetensors import ShardWriter
from halve.checkpoint.transposed import Columns, TransposedShard
from halve.errors import OutputError
from tiny import folders

ROWS, COLUMNS = 24, 40
MATRIX = np.random.default_rng(0).integers(-(2**31), 2**31, (ROWS, COLUMNS)).astype(np.int32)
PLAIN = np.arange(7, dtype=np.int32)
ENTRIES = [TensorInfo("a.qweight", "I32", (ROWS, COLUMNS)), TensorInfo("a.g_idx", "I32", (7,))]
STRIPS = [1, ROWS * 4, 5 * ROWS * 4, COLUMNS * ROWS * 4, 1 << 20]


def written(folder, steps):
    (folder / "config.json").write_text("{}")
    shard = TransposedShard(ShardWriter(folder / "model.safetensors", ENTRIES, {}), {"a.qweight"})
    assert shard.nbytes > MATRIX.nbytes
    offset = 0
    for columns in np.split(MATRIX.T, np.cumsum(steps)[:-1]):
        data = np.ascontiguousarray(columns).tobytes()
        shard.write("a.qweight", offset, data)
        offset += len(data)
    shard.write("a.g_idx", 0, PLAIN.tobytes())
    shard.finish()


@pytest.mark.parametrize("strip", STRIPS)
@pytest.mark.parametrize("steps", [(40,), (16, 16, 8), (1,) * 40, (0, 3, 37)])
def test_columns_become_a_matrix(tmp_path, monkeypatch, strip, steps):
    monkeypatch.setattr(transposed, "STRIP_BYTES", strip)
    written(tmp_path, steps)
    with closing(folders.HfCheckpoint(tmp_path)) as checkpoint:
        np.testing.assert_array_equal(read_array(checkpoint, "a.qweight"), MATRIX)
        np.testing.assert_array_equal(read_array(checkpoint, "a.g_idx"), PLAIN)


@pytest.mark.parametrize(("offset", "size"), [(4, ROWS * 4), (0, 10), (ROWS * 8, ROWS * 4)])
def test_bytes_that_are_not_the_next_columns(tmp_path, offset, size):
    shard = TransposedShard(ShardWriter(tmp_path / "model.safetensors", ENTRIES, {}), {"a.qweight"})
    with pytest.raises(ValueError, match="not its next columns"):
        shard.write("a.qweight", offset, bytes(size))
    shard.discard()
    assert not list(tmp_path.iterdir())


def test_more_columns_than_there_are(tmp_path):
    shard = TransposedShard(ShardWriter(tmp_path / "model.safetensors", ENTRIES, {}), {"a.qweight"})
    shard.write("a.qweight", 0, MATRIX.T.tobytes())
    with pytest.raises(ValueError, match="more than a.qweight has"):
        shard.write("a.qweight", MATRIX.nbytes, bytes(ROWS * 4))
    shard.discard()


def test_missing_columns_are_an_error(tmp_path):
    shard = TransposedShard(ShardWriter(tmp_path / "model.safetensors", ENTRIES, {}), {"a.qweight"})
    shard.write("a.qweight", 0, MATRIX.T[:5].tobytes())
    with pytest.raises(OutputError, match="bytes have not been written"):
        shard.finish()
    shard.discard()


@pytest.mark.parametrize("strip", STRIPS)
def test_ranges_of_columns(tmp_path, monkeypatch, strip):
    written(tmp_path, (COLUMNS,))
    monkeypatch.setattr(transposed, "STRIP_BYTES", strip)
    monkeypatch.setattr(transposed, "_CHUNK_BYTES", 100)
    columns = Columns()
    with closing(folders.HfCheckpoint(tmp_path)) as checkpoint:
        for start, stop in ((0, 8), (8, 40), (0, 40), (39, 40), (3, 3), (5, 12)):
            np.testing.assert_array_equal(columns.read(checkpoint, "a.qweight", start, stop), MATRIX[:, start:stop])


def test_each_strip_is_read_once(tmp_path, monkeypatch):
    written(tmp_path, (COLUMNS,))
    columns, read = Columns(), []
    monkeypatch.setattr(transposed, "read_array", lambda *a: read.append(a[1:]) or read_array(*a))
    with closing(folders.HfCheckpoint(tmp_path)) as checkpoint:
        for start in range(0, COLUMNS, 8):
            columns.read(checkpoint, "a.qweight", start, start + 8)
    assert read == [("a.qweight", 0, ROWS)]


def test_another_checkpoint_is_another_matrix(tmp_path):
    columns = Columns()
    for value in (1, 2):
        folder = tmp_path / str(value)
        data = np.full((2, 3), value, np.int32).tobytes()
        with closing(folders.write(folder, {}, {"a.qweight": ("I32", (2, 3), data)})) as checkpoint:
            assert set(columns.read(checkpoint, "a.qweight", 0, 3).flat) == {value}


def test_threads_do_not_disturb_each_other(tmp_path):
    written(tmp_path, (COLUMNS,))
    columns, wrong = Columns(), []

    def work(first):
        found = [columns.read(checkpoint, "a.qweight", first, first + 8).copy() for _ in range(50)]
        wrong.extend(found for one in found if not np.array_equal(one, MATRIX[:, first : first + 8]))

    with closing(folders.HfCheckpoint(tmp_path)) as checkpoint:
        threads = [threading.Thread(target=work, args=(first,)) for first in (0, 8, 16, 24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
