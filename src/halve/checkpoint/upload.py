"""A new file behind a URL: written in any order on this machine, sent in parts once it is whole.

Stores take a file from its first byte to its last, and workers do not write so. What is written waits in a nameless
file in TMPDIR, which the system removes however the process ends, and is sent in a multipart upload: nobody sees the
file before its last part has come.
"""

import errno
import os
import tempfile
from contextlib import suppress
from typing import Any

from halve.checkpoint.storage import PlacedBytes
from halve.checkpoint.url import Url
from halve.errors import OutputError

PART = 8 << 20  # bytes; S3 takes no less than 5 MiB
MOST_PARTS = 9_000  # of 10,000 that S3 takes
HELD = (
    3 * PART
)  # bytes that a thread holds while it sends: the part as it is read, in fsspec's buffer, and as a request


class UploadWriter(PlacedBytes):
    """A new file of exactly ``nbytes`` bytes at ``path``, which has it once it is finished.

    Raises OutputError where there is no room in TMPDIR, and where the storage refuses or does not answer.
    """

    def __init__(self, path: Url, nbytes: int) -> None:
        self.path = path
        self._nbytes = nbytes
        self._fd = -1
        try:
            self._fd, name = tempfile.mkstemp(prefix="halve-")
            os.unlink(name)  # noqa: PTH108 - of an open file
            os.ftruncate(self._fd, nbytes)
        except OSError as error:
            self.discard()
            raise self._failed(error) from error

    def finish(self) -> None:
        """Send the file, and forget it here. Raises OutputError where the storage refuses or does not answer."""
        self.path.put(self._send)
        self.discard()

    def sync(self) -> None:
        """Do nothing: what is not sent yet does not outlive the process."""

    def suspend(self) -> None:
        """Forget what is not sent."""
        self.discard()

    def discard(self) -> None:
        """Forget the file here; a second time do nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with suppress(OSError):
                os.close(fd)

    def _send(self, filesystem: Any, path: str) -> None:
        part = max(PART, -(-self._nbytes // (MOST_PARTS << 20)) << 20)
        file = filesystem.open(path, "wb", block_size=part)
        try:
            for begin in range(0, self._nbytes, part):
                file.write(self.read(begin, min(part, self._nbytes - begin)))
        except BaseException:
            _give_up(file)
            raise
        file.close()

    def _failed(self, error: OSError) -> OutputError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return OutputError(
            f"{self.path}: cannot be prepared in {tempfile.gettempdir()}: {error.strerror}",
            hint="set TMPDIR to a folder on a disk with room for a few weight files"
            + (", or ask for smaller shards (--shard-size)" if full else ""),
        )


def _give_up(file: Any) -> None:
    """Abort the upload ``file``. To close it, which going out of scope does as well, would show what is there."""
    with suppress(Exception):
        file.discard()
    with suppress(AttributeError):  # of files in memory, which nobody else sees
        file.closed = True
