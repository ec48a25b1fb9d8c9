"""What has been fetched and may be asked for again, in a nameless file in TMPDIR of bounded size.

Schemes with a tensor scale read a weight twice: for its largest number, and to quantize it. From a disk the second time
comes out of the page cache; from a store it would be traffic.
"""

import os
import tempfile
from contextlib import suppress
from threading import Lock


class Spool:
    """Room for ``slots`` pieces of at most ``slot_bytes`` bytes each. The file comes to be with the first piece.

    Safe to use from several threads. Where the disk is full or fails nothing is kept, and nothing is lost.
    """

    def __init__(self, slots: int, slot_bytes: int) -> None:
        self._slot_bytes = slot_bytes
        self._free = list(range(slots - 1, -1, -1))  # the first comes first, so that the file stays small
        self._lock = Lock()
        self._fd = -1

    def put(self, content: bytes) -> int | None:
        """Keep ``content``; the slot that it is in, or None where there is no room."""
        try:
            with self._lock:
                if self._fd < 0 and self._free:
                    self._fd, name = tempfile.mkstemp(prefix="halve-")
                    os.unlink(name)  # noqa: PTH108 - of an open file
                slot = self._free.pop()
        except (OSError, IndexError):
            return None
        with suppress(OSError):
            if os.pwrite(self._fd, content, slot * self._slot_bytes) == len(content):
                return slot
        self.free(slot)
        return None

    def read_into(self, slot: int, buffer: memoryview) -> bool:
        """Fill ``buffer`` with what is in ``slot``; False where it cannot be read."""
        with suppress(OSError):
            return os.preadv(self._fd, [buffer], slot * self._slot_bytes) == len(buffer)
        return False

    def free(self, slot: int) -> None:
        """Give ``slot`` to the next."""
        with self._lock:
            self._free.append(slot)
