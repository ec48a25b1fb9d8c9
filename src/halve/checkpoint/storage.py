"""Files read and written at offsets, by several threads, through memory that is used again and again; no memory maps.

A mapped file that shrinks kills the process with SIGBUS, and its pages count as the process's own. ``preadv`` into one
buffer a thread has neither fault, and ``FileReader.drop`` gives the page cache back behind the job.
"""

import errno
import fcntl
import mmap
import os
import stat
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from halve.errors import CheckpointError, OutputError, UnsupportedError

PAGE = mmap.PAGESIZE
# How to open what may be hostile: opening a pipe must not wait for its writer.
OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


class FileReader:
    """An open regular file of ``size`` bytes. Safe to read from several threads at once.

    Raises CheckpointError where ``path`` cannot be opened or is not a regular file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, OPEN_FLAGS)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be opened: {error.strerror}", hint=_hint(error)) from error
        status = os.fstat(self._fd)
        self.size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise CheckpointError(f"{path}: not a regular file", hint="give a file, not a folder, pipe or device")

    def read_into(self, offset: int, buffer: memoryview, what: str = "") -> None:
        """Fill ``buffer``, a contiguous view of bytes, from byte ``offset`` of the file on.

        ``what`` names the part that is read in errors. Raises CheckpointError where the file ends early or cannot be
        read. (A call that a signal interrupts goes on by itself: PEP 475.)
        """
        where = f"{self.path}: {what}: " if what else f"{self.path}: "
        done = 0
        while done < len(buffer):
            try:
                got = os.preadv(self._fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise CheckpointError(
                    f"{where}byte {offset + done} cannot be read: {error.strerror}",
                    hint="check the disk, and that it is still mounted",
                ) from error
            if not got:
                raise CheckpointError(
                    f"{where}the file ends at byte {offset + done}, {len(buffer) - done} bytes early",
                    hint="it was cut off, or another program is writing it: download or copy it again",
                )
            done += got

    def read(self, offset: int, nbytes: int) -> bytes:
        """``nbytes`` bytes from ``offset`` on. Raises as `read_into` does."""
        content = bytearray(nbytes)
        self.read_into(offset, memoryview(content))
        return bytes(content)

    def drop(self, begin: int, end: int) -> None:
        """Let the pages that lie wholly within bytes ``begin..end`` leave the page cache, where the system has a way.

        Pages at the rim stay: a neighbour may still be read.
        """
        if not hasattr(os, "posix_fadvise"):
            return
        first, last = -(-begin // PAGE) * PAGE, end // PAGE * PAGE
        if first < last:
            with suppress(OSError):  # advice: some file systems take none
                os.posix_fadvise(self._fd, first, last - first, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PlacedBytes(ABC):
    """Bytes at their places in the open file ``_fd``; a subclass says what its errors mean."""

    _fd: int

    @abstractmethod
    def _failed(self, error: OSError) -> OutputError: ...

    def write(self, offset: int, data: memoryview) -> None:
        """Put ``data``, a view of bytes, at ``offset``. Raises OutputError where the disk is full or fails."""
        try:
            while data:
                done = os.pwrite(self._fd, data, offset)
                data, offset = data[done:], offset + done
        except OSError as error:
            raise self._failed(error) from error

    def read(self, offset: int, nbytes: int) -> bytes:
        """``nbytes`` bytes from ``offset`` on, as they are by now. Raises OutputError where the disk fails."""
        try:
            return os.pread(self._fd, nbytes, offset)
        except OSError as error:
            raise self._failed(error) from error


class FileWriter(PlacedBytes):
    """A new file of exactly ``nbytes`` bytes: ``path.part`` until it is finished, then ``path``.

    A ``path.part`` that an interrupted job has left is taken over with the bytes that it has; the lock on it goes with
    the process, however that ends.

    Raises OutputError where ``path`` exists, cannot be made, does not fit on the disk, or is being written.
    """

    def __init__(self, path: Path, nbytes: int) -> None:
        self.path = path
        self._nbytes = nbytes
        self._part = path.with_name(path.name + ".part")
        if os.path.lexists(path):
            raise OutputError(f"{path} exists", hint="choose another place, or remove it first")
        try:
            self._fd = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise self._failed(error) from error
        self._pending = False  # not before it is ours
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._fd).st_size not in (0, nbytes):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            self._pending = True
            self._allocate()
        except OSError as error:
            self.discard()
            raise self._failed(error) from error

    def finish(self) -> None:
        """Bring the bytes to the disk, then the name. Raises OutputError where the disk fails."""
        try:
            os.fsync(self._fd)
            self._close()
            self._part.rename(self.path)
        except OSError as error:
            raise self._failed(error) from error
        self._pending = False
        with suppress(OSError):  # some file systems cannot sync a folder
            _sync(self.path.parent)

    def sync(self) -> None:
        """Bring what has been written to the disk. Raises OutputError where the disk fails."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._failed(error) from error

    def suspend(self) -> None:
        """Close the file, and leave what is written to a later job. After `finish` or `discard`, do nothing."""
        self._pending = False
        with suppress(OSError):
            self._close()

    def discard(self) -> None:
        """Remove what is unfinished, once no thread writes any more. After `finish`, or a second time, do nothing."""
        with suppress(OSError):
            self._close()
        if self._pending:
            self._pending = False
            with suppress(OSError):
                self._part.unlink()

    def _allocate(self) -> None:
        """Reserve all bytes, so that a full disk is found before any work is done."""
        if hasattr(os, "posix_fallocate"):  # macOS has it not
            try:
                os.posix_fallocate(self._fd, 0, self._nbytes)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # the file system cannot
                    raise
        os.ftruncate(self._fd, self._nbytes)

    def _close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _failed(self, error: OSError) -> OutputError:
        why = error.strerror
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            why = f"{why}: the file takes {self._nbytes:,} bytes"
        hints = {
            errno.ENOSPC: "free some space, choose another disk, or a scheme of fewer bits",
            errno.EDQUOT: "free some of your quota, choose another disk, or a scheme of fewer bits",
            errno.EFBIG: "the file system or a limit (ulimit -f) allows no file of that size: ask for smaller shards",
            errno.EEXIST: f"{self._part.name} is no file that this job began: remove it where nobody needs it",
            errno.EWOULDBLOCK: f"another job is writing {self._part.name}",
            errno.ENOENT: "make the folder first",
        }
        return OutputError(
            f"{self.path}: cannot be written: {why}",
            hint=hints.get(error.errno or 0, "choose a folder on a sound disk that you may write to"),
        )


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _hint(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "ask its owner for permission to read it"
    if isinstance(error, FileNotFoundError):
        return "check the path"
    return "check the path, the disk, and how many files may be open (ulimit -n)"


def aligned_buffer(nbytes: int) -> memoryview:
    """Writable memory of ``nbytes`` zero bytes that starts at a page, and goes back to the system when unused.

    Raises UnsupportedError where there is not so much memory.
    """
    try:
        # Private: an anonymous map is shared by default, which makes it a file in memory with slower page faults.
        pages = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise UnsupportedError(
            f"there is no memory for a buffer of {nbytes / 1e9:.2f} GB: {error}",
            hint="close other programs, or use a machine with more memory",
        ) from error
    return memoryview(pages)[:nbytes]
