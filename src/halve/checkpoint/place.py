"""Where a file lies: a path of this machine, or a URL. Here, and nowhere else, is decided which."""

from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias
from urllib.parse import unquote, urlsplit

from halve.checkpoint.remote import HELD, RemoteReader
from halve.checkpoint.storage import FileReader
from halve.checkpoint.url import MARK, Url
from halve.document import too_large
from halve.errors import UnsupportedError

Place: TypeAlias = Path | Url


class RangeReader(Protocol):
    """An open file of ``size`` bytes, read by ranges from any thread; a context."""

    size: int

    @property
    def path(self) -> Place:
        """Where it lies."""
        ...

    def read_into(self, offset: int, buffer: memoryview, what: str = "") -> None:
        """Fill ``buffer``, a view of bytes, from byte ``offset`` on; ``what`` is named in errors."""
        ...

    def read(self, offset: int, nbytes: int) -> bytes:
        """``nbytes`` bytes from ``offset`` on."""
        ...

    def drop(self, begin: int, end: int) -> None:
        """Say that bytes ``begin..end`` will not be read again."""
        ...

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def place(spec: str | Place) -> Place:
    """The place that ``spec`` names: a URL where it has ``://`` in it, else a path; ``file://`` is a path, too.

    Raises UnsupportedError for a URL that names no one file, and where fsspec or its driver is missing.
    """
    if not isinstance(spec, str) or MARK not in spec:
        return spec if isinstance(spec, Url) else Path(spec)
    if "::" in spec:
        raise UnsupportedError(f"{spec}: chains of URLs are not read", hint="give the URL of the storage itself")
    if spec.startswith("file://"):
        return Path(unquote(urlsplit(spec).path))
    protocol, _, rest = spec.partition(MARK)
    return Url(f"{protocol}{MARK}{rest.rstrip('/')}").refreshed()


def open_ranges(file: Place) -> RangeReader:
    """Open ``file`` to be read by ranges. Raises CheckpointError where it cannot be."""
    return RemoteReader(file) if isinstance(file, Url) else FileReader(file)


def content(file: Place, limit: int) -> bytes:
    """All of ``file``, at most ``limit`` bytes. Raises CheckpointError where it cannot be read or is larger."""
    with open_ranges(file) as opened:
        if opened.size > limit:
            raise too_large(file, opened.size, limit)
        return opened.read(0, opened.size)


def stamp(file: Place) -> list[Any]:
    """What tells ``file`` from another content under its name, JSON-ready: name, size, and time or version."""
    if isinstance(file, Url):
        return [file.name, file.stat().st_size, file.version()]
    status = file.stat()
    return [file.name, status.st_size, status.st_mtime_ns]


def local(found: Place, what: str) -> Path:
    """``found``, which must be a path of this machine for ``what``. Raises UnsupportedError for a URL."""
    if isinstance(found, Url):
        raise UnsupportedError(f"{found}: {what} must be on this machine", hint="copy it here first")
    return found


def held_reading(file: Place) -> int:
    """Bytes that a thread which reads ``file`` holds beside its buffer."""
    return HELD if isinstance(file, Url) else 0
