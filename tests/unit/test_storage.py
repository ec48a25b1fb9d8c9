"""Reading at offsets, page cache advice, and buffers. Writing is tested with the safetensors writer."""

import ctypes
import os
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from halve.checkpoint.storage import PAGE, FileReader, aligned_buffer
from halve.errors import CheckpointError, UnsupportedError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(random.Random(0).randbytes(5 * PAGE + 17))
    return path


def test_bytes_are_those_of_the_file(file):
    content = file.read_bytes()
    with FileReader(file) as reader:
        assert reader.size == len(content)
        assert reader.read(0, len(content)) == content
        assert reader.read(PAGE - 3, 11) == content[PAGE - 3 : PAGE + 8]
        assert reader.read(len(content), 0) == b""
        buffer = bytearray(b"." * 8)
        reader.read_into(5, memoryview(buffer)[2:6])
        assert buffer == b".." + content[5:9] + b".."


def test_threads_read_at_once(file):
    content = file.read_bytes()
    ranges = [(start, 1 + start % 3000) for start in range(0, 5 * PAGE - 3000, 37)]
    with FileReader(file) as reader, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda place: reader.read(*place), ranges))
    assert found == [content[start : start + n] for start, n in ranges]


def test_short_reads_go_on(file, monkeypatch):
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: whole(fd, [buffers[0][:1000]], offset))
    with FileReader(file) as reader:
        assert reader.read(10, 5 * PAGE) == file.read_bytes()[10 : 5 * PAGE + 10]


def test_the_end_of_the_file_is_named(file):
    with FileReader(file) as reader:
        os.truncate(file, 100)
        with pytest.raises(
            CheckpointError, match=r"data: model\.w: the file ends at byte 100, 20 bytes early"
        ) as raised:
            reader.read_into(60, memoryview(bytearray(60)), "model.w")
    assert raised.value.hint


def test_a_disk_that_fails_is_named(file):
    reader = FileReader(file)
    reader.close()
    reader.close()
    with pytest.raises(CheckpointError, match="data: byte 60 cannot be read: Bad file descriptor") as raised:
        reader.read(60, 4)
    assert raised.value.hint


@pytest.mark.parametrize(
    ("begin", "end", "advised"),
    [
        (0, 3 * PAGE, (0, 3 * PAGE)),
        (1, 3 * PAGE + 1, (PAGE, 2 * PAGE)),
        (PAGE, 2 * PAGE - 1, None),
        (PAGE + 1, 2 * PAGE - 1, None),
        (2 * PAGE, 2 * PAGE, None),
    ],
)
def test_only_whole_pages_are_dropped(file, monkeypatch, begin, end, advised):
    calls = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, *advice: calls.append(advice))
    with FileReader(file) as reader:
        reader.drop(begin, end)
    assert calls == ([] if advised is None else [(*advised, os.POSIX_FADV_DONTNEED)])


def test_dropping_is_only_advice(file, monkeypatch):
    with FileReader(file) as reader:
        reader.drop(0, 5 * PAGE)
        assert reader.read(0, PAGE) == file.read_bytes()[:PAGE]
        monkeypatch.delattr(os, "posix_fadvise")
        reader.drop(0, 5 * PAGE)
    reader.drop(0, 5 * PAGE)


def test_dropping_a_closed_file_does_no_harm(file):
    reader = FileReader(file)
    reader.close()
    reader.drop(0, 5 * PAGE)


@pytest.mark.parametrize("nbytes", [0, 1, PAGE, 3 * PAGE + 5])
def test_buffers_start_at_a_page_and_can_be_written(nbytes):
    buffer = aligned_buffer(nbytes)
    assert (len(buffer), buffer.format, buffer.readonly) == (nbytes, "B", False)
    assert bytes(buffer) == bytes(nbytes)
    buffer[:] = b"x" * nbytes
    if nbytes:
        assert ctypes.addressof(ctypes.c_char.from_buffer(buffer)) % PAGE == 0


def test_a_buffer_that_no_machine_has():
    with pytest.raises(UnsupportedError, match="no memory for a buffer") as raised:
        aligned_buffer(1 << 62)
    assert raised.value.hint
