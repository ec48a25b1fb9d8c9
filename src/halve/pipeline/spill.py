"""Hidden states on the disk, where memory is for something else."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from halve.errors import OutputError

Array = NDArray[np.float32]


class States(Protocol):
    """Matrices that can be replaced by others of the same shape; a list is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Array: ...

    def __setitem__(self, index: int, states: Array, /) -> None: ...


class Spilled:
    """Matrices of ``shapes`` in a temporary file in ``folder`` that has no name and ends with the process; a context.

    Implements ``States``; what is read is a new array each time. Raises OutputError where the disk is full or fails.
    """

    def __init__(self, folder: Path, shapes: Sequence[tuple[int, int]]) -> None:
        self._shapes = tuple(shapes)
        self._begin = (0, *accumulate(rows * columns * 4 for rows, columns in shapes))
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise _failed(folder, error) from None
        self._folder = folder

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, index: int, /) -> Array:
        states = np.empty(self._shapes[index], np.float32)
        view = states.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(view):
            got = os.preadv(self._file.fileno(), [view[done:]], self._begin[index] + done)
            if not got:
                raise OutputError(f"{self._folder}: a temporary file has lost its end", hint="check the disk")
            done += got
        return states

    def __setitem__(self, index: int, states: Array, /) -> None:
        view, offset = np.ascontiguousarray(states, np.float32).reshape(-1).view(np.uint8).data, self._begin[index]
        try:
            while view:
                done = os.pwrite(self._file.fileno(), view, offset)
                view, offset = view[done:], offset + done
        except OSError as error:
            raise _failed(self._folder, error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._file.close()


def put_all(states: States, made: Iterable[Array]) -> None:
    """Fill ``states`` in order."""
    for index, one in enumerate(made):
        states[index] = one


def each(states: States) -> Iterator[tuple[int, Array]]:
    """All of ``states``, one in memory at a time."""
    for index in range(len(states)):
        yield index, states[index]


def _failed(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{folder}: hidden states cannot be written there: {error.strerror}",
        hint="free some space, choose another disk, or allow more --memory",
    )
