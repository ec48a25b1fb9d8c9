"""The file of external data in the making: each byte once, none left out, nothing left behind."""

import pytest

from halve.checkpoint.base import TensorInfo
from halve.errors import OutputError, UnsupportedError
from halve.onnx.external import DataFile, places

ENTRIES = [TensorInfo("a", "U8", (3, 10)), TensorInfo("b", "F32", (256, 256)), TensorInfo("c", "U8", (0,))]


@pytest.fixture
def file(tmp_path):
    file = DataFile(tmp_path / "data", ENTRIES)
    yield file
    file.discard()


def test_pieces_in_any_order(file):
    file.write("b", 0, bytes(256 * 1024))
    for offset in (20, 0, 10):
        file.write("a", offset, bytes([offset + 1]) * 10)
    file.finish()
    content = file.path.read_bytes()
    assert content[:30] == b"\x01" * 10 + b"\x0b" * 10 + b"\x15" * 10
    assert len(content) == file.nbytes == places(ENTRIES).nbytes
    assert places(ENTRIES).begins["b"] == 4096  # large tensors can be mapped into memory


@pytest.mark.parametrize(("offset", "nbytes"), [(0, 10), (5, 10), (9, 2), (15, 1), (-1, 1), (25, 6), (31, 0)])
def test_bytes_that_have_no_place(file, offset, nbytes):
    file.write("a", 0, bytes(20))
    with pytest.raises(ValueError, match="have no place"):
        file.write("a", offset, bytes(nbytes))


def test_what_an_earlier_job_wrote_is_not_written_again(file):
    file.restore("a", 10, 10)
    with pytest.raises(ValueError, match="have no place"):
        file.write("a", 0, bytes(11))


def test_bytes_that_are_missing(file):
    file.write("b", 0, bytes(256 * 1024))
    file.write("a", 0, bytes(10))
    file.write("a", 20, bytes(10))
    with pytest.raises(OutputError, match="bytes of a have not been written") as raised:
        file.finish()
    assert raised.value.hint
    assert not file.path.exists()


def test_two_tensors_of_one_name(tmp_path):
    with pytest.raises(UnsupportedError, match="two tensors would be called a"):
        DataFile(tmp_path / "data", [ENTRIES[0], ENTRIES[0]])
    assert not list(tmp_path.iterdir())
