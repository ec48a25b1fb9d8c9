"""External data: a file of tensors side by side, at places that the graph's file names.

Places are known before the first byte of data. ONNX asks for multiples of 4096 where a tensor is to be mapped into
memory; small tensors lie at multiples of 64. Specification: https://github.com/onnx/onnx/blob/main/docs/ExternalData.md
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

from halve.checkpoint.base import TensorInfo
from halve.checkpoint.place import Place, open_writer
from halve.checkpoint.region import Region
from halve.errors import OutputError, UnsupportedError

_PAGE, _LINE = 4096, 64
_LARGE = 1 << 16  # bytes of a tensor that begins a page


@dataclass(frozen=True, slots=True)
class Places:
    """Where each tensor begins in the file, and how long the file is."""

    begins: Mapping[str, int]
    nbytes: int


def places(entries: Iterable[TensorInfo]) -> Places:
    """Places for ``entries``, in their order. Raises UnsupportedError where two have one name."""
    begins: dict[str, int] = {}
    end = 0
    for entry in entries:
        if entry.name in begins:
            raise UnsupportedError(
                f"two tensors would be called {entry.name}",
                hint="the checkpoint has a tensor with the name of another's scale: leave that one out with --ignore",
            )
        unit = _PAGE if entry.nbytes >= _LARGE else _LINE
        begins[entry.name] = -(-end // unit) * unit
        end = begins[entry.name] + entry.nbytes
    return Places(begins, end)


class DataFile:
    """The data of a model in the making: ``path.part``, renamed to ``path`` when every tensor has all its bytes.

    Implements ``WeightFile`` of the layouts. Raises OutputError where the file exists, cannot be made, or does not fit
    on the disk; UnsupportedError where two entries have one name.
    """

    def __init__(self, path: Place, entries: Sequence[TensorInfo]) -> None:
        self.path = path
        self.entries = tuple(entries)
        found = places(self.entries)
        self.nbytes = found.nbytes
        self._regions = {entry.name: Region(found.begins[entry.name], entry.nbytes) for entry in self.entries}
        self._lock = Lock()
        self._file = open_writer(path, self.nbytes)

    def write(self, name: str, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put ``data`` at byte ``offset`` of tensor ``name``; from any thread, any part of any tensor, in any order.

        Raises OutputError where the disk is full or fails; ValueError, a mistake of the caller, for bytes that do not
        belong to the tensor or have been written before.
        """
        view = memoryview(data).cast("B")
        self.restore(name, offset, len(view))
        self._file.write(self._regions[name].begin + offset, view)

    def restore(self, name: str, offset: int, nbytes: int) -> None:
        """Count ``nbytes`` bytes at byte ``offset`` of tensor ``name`` as written: by a job that was interrupted."""
        with self._lock:
            if not self._regions[name].claim(offset, offset + nbytes):
                raise ValueError(f"bytes {offset} to {offset + nbytes} of {name} have no place in {self.path}")

    def finish(self) -> None:
        """Bring the file to the disk under its name. Raises OutputError where bytes are missing or the disk fails."""
        missing = next((name for name, region in self._regions.items() if not region.whole), None)
        if missing is not None:
            raise OutputError(
                f"{self.path}: bytes of {missing} have not been written", hint="the job was cut short: run it again"
            )
        self._file.finish()

    def sync(self) -> None:
        """Bring what has been written to the disk. Raises OutputError where the disk fails."""
        self._file.sync()

    def suspend(self) -> None:
        """Close the file, and leave what is written to a later job."""
        self._file.suspend()

    def discard(self) -> None:
        """Remove what is unfinished, once no thread writes any more. After `finish`, or a second time, do nothing."""
        self._file.discard()


class GraphFile:
    """The file of a model's graph, complete when it is made; it gets its name after the data has its own.

    Implements ``WeightFile``: without entries, for all data is in `DataFile`.
    """

    entries: tuple[TensorInfo, ...] = ()

    def __init__(self, path: Place, content: bytes) -> None:
        self.path = path
        self.nbytes = len(content)
        self._file = open_writer(path, self.nbytes)
        try:
            self._file.write(0, memoryview(content))
        except BaseException:
            self._file.discard()
            raise

    def write(self, name: str, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Never called by a job: raises ValueError."""
        raise ValueError(f"{len(data)} bytes at {offset} of {name} have no place in {self.path}")

    def restore(self, name: str, offset: int, nbytes: int) -> None:
        """Never called by a job: raises ValueError."""
        raise ValueError(f"{nbytes} bytes at {offset} of {name} have no place in {self.path}")

    def finish(self) -> None:
        """Bring the file to the disk under its name. Raises OutputError where the disk fails."""
        self._file.finish()

    def sync(self) -> None:
        """Bring what has been written to the disk. Raises OutputError where the disk fails."""
        self._file.sync()

    def suspend(self) -> None:
        """Close the file, and leave what is written to a later job."""
        self._file.suspend()

    def discard(self) -> None:
        """Remove what is unfinished."""
        self._file.discard()
