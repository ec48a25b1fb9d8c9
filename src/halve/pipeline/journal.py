"""The journal of a job: which fused groups lie whole on the disk, so that an interrupted job goes on behind them.

A line is written only after the bytes that it speaks of have been brought to the disk. A line cut off in the middle
counts for nothing, and so does all behind it.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any

from halve import document
from halve.errors import CheckpointError, OutputError

SECONDS = 1.0  # between two visits to the disk: so much work is lost at the most


@dataclass(frozen=True, slots=True)
class Finished:
    """A group of tensors that is written: what became of each, and the hashes of the entries they fill."""

    tensors: Mapping[str, Mapping[str, Any]]
    entries: Mapping[str, str]


def serialised(finished: Iterable[Finished]) -> bytes:
    """A line each."""
    return b"".join(json.dumps({"tensors": one.tensors, "entries": one.entries}).encode() + b"\n" for one in finished)


def parse(raw: bytes) -> tuple[list[Finished], int]:
    """What lines say up to the first that makes no sense, and their length in bytes."""
    finished: list[Finished] = []
    length = 0
    for line in raw.split(b"\n")[:-1]:
        try:
            document.check_containers(line, "line", hint="")
            match json.loads(line):
                case {"tensors": dict(tensors), "entries": dict(entries)}:
                    finished.append(Finished(tensors, entries))
                case _:
                    break
        except (ValueError, RecursionError, CheckpointError):
            break
        length += len(line) + 1
    return finished, length


class Journal:
    """The file ``path``, gone on with where there is one.

    ``sync`` brings what the job has written to the disk. Raises OutputError where the journal cannot be read or
    written, CheckpointError where it is too large to be one.
    """

    def __init__(self, path: Path, sync: Callable[[], None]) -> None:
        self.path = path
        self.finished: list[Finished] = []
        self._sync = sync
        self._pending: list[Finished] = []
        self._lock, self._writing = Lock(), Lock()
        self._last = monotonic()
        self._length = self._read()  # of what is whole
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise self._failed(error) from None

    def add(self, one: Finished) -> None:
        """Note a group whose bytes have been written; any thread. Now and then the disk is waited for."""
        with self._lock:
            self._pending.append(one)
            if monotonic() - self._last < SECONDS:
                return
        self.commit()

    def commit(self) -> None:
        """Bring all that has been noted to the disk."""
        with self._writing:
            with self._lock:
                ready, self._pending, self._last = self._pending, [], monotonic()
            try:
                if ready:
                    self._sync()
                    self._write(ready)
                    self.finished += ready
            except BaseException as error:
                with self._lock:
                    self._pending = ready + self._pending  # for the commit that comes last
                if isinstance(error, OSError):
                    raise self._failed(error) from None
                raise
            self._last = monotonic()

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> int:
        """Take what is finished from the file; the length of what makes sense."""
        try:
            raw = document.read(self.path, document.TEXT_LIMIT)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise self._failed(error) from None
        self.finished, length = parse(raw)
        return length

    def _write(self, finished: Iterable[Finished]) -> None:
        """Write ``finished`` behind what is whole, over what an interrupted call has left there."""
        content = memoryview(serialised(finished))
        end = self._length
        os.ftruncate(self._fd, end)
        while content:
            written = os.pwrite(self._fd, content, end)
            content, end = content[written:], end + written
        os.fsync(self._fd)
        self._length = end

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self.path}: {error.strerror}", hint="free some space, or choose a folder that you may write to"
        )
