"""A file behind a URL, read by ranges: nothing is downloaded that nobody asks for."""

from threading import Lock
from types import TracebackType
from typing import Self

from halve.checkpoint.spool import Spool
from halve.checkpoint.url import Url
from halve.errors import CheckpointError

PART = 2 << 20  # bytes of a request: large enough that its round trip does not matter much
AT_ONCE = 4  # requests side by side, for one read
HELD = 2 * AT_ONCE * PART  # bytes that a read holds beside its buffer: what has come, and once more while it is joined
HEAD = 64 << 10  # bytes that the first read fetches: most headers, in one request
KEPT = 2 << 30  # bytes of TMPDIR, for all readers together

_spool = Spool(KEPT // PART, PART)


class RemoteReader:
    """The file behind ``path``, of ``size`` bytes. Safe to read from several threads at once.

    Raises CheckpointError where it is not there or the storage does not answer, UnsupportedError without the driver.
    """

    def __init__(self, path: Url) -> None:
        self.path = path
        try:
            self.size = path.stat().st_size
        except FileNotFoundError as error:
            raise CheckpointError(f"{path}: no such file", hint="check the URL") from error
        self._head = b""
        self._kept: dict[tuple[int, int], int] = {}  # ranges that have been fetched -> where they are in the spool
        self._lock = Lock()

    def read_into(self, offset: int, buffer: memoryview, what: str = "") -> None:
        """Fill ``buffer``, a contiguous view of bytes, from byte ``offset`` of the file on.

        ``what`` names the part that is read in errors. Raises CheckpointError where the file ends early or its storage
        does not answer.
        """
        if (end := offset + len(buffer)) > self.size:
            where = f"{self.path}: {what}: " if what else f"{self.path}: "
            raise CheckpointError(
                f"{where}the file ends at byte {self.size}, {end - self.size} bytes early",
                hint="it was cut off, or another program is writing it: upload it again",
            )
        if end <= HEAD:
            buffer[:] = self._beginning()[offset:end]
            return
        self._head = b""  # the header is behind us
        spans = [(begin, min(begin + PART, end)) for begin in range(offset, end, PART)]
        missing = [span for span in spans if not self._again(span, buffer[span[0] - offset : span[1] - offset])]
        try:
            for first in range(0, len(missing), AT_ONCE):
                some = missing[first : first + AT_ONCE]
                for (begin, stop), content in zip(some, self.path.ranges(some), strict=True):
                    buffer[begin - offset : stop - offset] = content
                    self._keep((begin, stop), content)
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.path}: it has been removed", hint="upload it again") from error

    def read(self, offset: int, nbytes: int) -> bytes:
        """``nbytes`` bytes from ``offset`` on. Raises as `read_into` does."""
        content = bytearray(nbytes)
        self.read_into(offset, memoryview(content))
        return bytes(content)

    def drop(self, begin: int, end: int) -> None:
        """Forget what was fetched of bytes ``begin..end``."""
        with self._lock:
            for span in [span for span in self._kept if begin <= span[0] and span[1] <= end]:
                _spool.free(self._kept.pop(span))

    def close(self) -> None:
        """Forget all that was fetched; closing twice is harmless."""
        self._head = b""
        self.drop(0, self.size)

    def _again(self, span: tuple[int, int], buffer: memoryview) -> bool:
        """Fill ``buffer`` with ``span`` where it was fetched before."""
        with self._lock:  # so that nobody drops it meanwhile
            slot = self._kept.get(span)
            return slot is not None and _spool.read_into(slot, buffer)

    def _keep(self, span: tuple[int, int], content: bytes) -> None:
        slot = _spool.put(content)
        if slot is None:
            return
        with self._lock:
            if self._kept.setdefault(span, slot) != slot:  # another thread has fetched it, too
                _spool.free(slot)

    def _beginning(self) -> bytes:
        """The first bytes, fetched once while the header is read."""
        if not (head := self._head) and self.size:
            (head,) = self.path.ranges([(0, min(HEAD, self.size))])
            self._head = head
        return head

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
