"""Where a file lies: a path of this machine, or a URL. Here, and nowhere else, is decided which."""

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias
from urllib.parse import unquote, urlsplit

from halve.checkpoint import remote, upload
from halve.checkpoint.storage import FileReader, FileWriter
from halve.checkpoint.url import MARK, Url
from halve.document import too_large
from halve.errors import UnsupportedError

Place: TypeAlias = Path | Url
_CHUNK = 4 << 20


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


class NewFile(Protocol):
    """A new file of a known size, written in any order from any thread; it has its name once it is finished."""

    def write(self, offset: int, data: memoryview) -> None:
        """Put ``data``, a view of bytes, at ``offset``."""
        ...

    def read(self, offset: int, nbytes: int) -> bytes:
        """``nbytes`` bytes from ``offset`` on, as they are by now."""
        ...

    def sync(self) -> None:
        """Bring what has been written to where it outlives the process, where there is such a place."""
        ...

    def finish(self) -> None:
        """Make the file whole under its name."""
        ...

    def suspend(self) -> None:
        """Close the file, and leave what is written to a later job, where it can be."""
        ...

    def discard(self) -> None:
        """Remove what is unfinished; after `finish`, or a second time, do nothing."""
        ...


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
    return remote.RemoteReader(file) if isinstance(file, Url) else FileReader(file)


def open_writer(file: Place, nbytes: int) -> NewFile:
    """Begin the new ``file`` of exactly ``nbytes`` bytes. Raises OutputError where it cannot be made."""
    return upload.UploadWriter(file, nbytes) if isinstance(file, Url) else FileWriter(file, nbytes)


def content(file: Place, limit: int) -> bytes:
    """All of ``file``, at most ``limit`` bytes. Raises CheckpointError where it cannot be read or is larger."""
    with open_ranges(file) as opened:
        if opened.size > limit:
            raise too_large(file, opened.size, limit)
        return opened.read(0, opened.size)


def sha256(file: Place, nbytes: int) -> str:
    """Hash of the first ``nbytes`` bytes of ``file``. Raises CheckpointError where it cannot be read so far."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(min(nbytes, _CHUNK)))
    with open_ranges(file) as opened:
        for begin in range(0, nbytes, _CHUNK):
            part = buffer[: min(_CHUNK, nbytes - begin)]
            opened.read_into(begin, part)
            digest.update(part)
    return digest.hexdigest()


def stamp(file: Place) -> list[Any]:
    """What tells ``file`` from another content under its name, JSON-ready: name, size, and time or version."""
    if isinstance(file, Url):
        return [file.name, file.stat().st_size, file.version()]
    status = file.stat()
    return [file.name, status.st_size, status.st_mtime_ns]


def local(found: Place, what: str, hint: str = "copy it here first") -> Path:
    """``found``, which must be a path of this machine for ``what``. Raises UnsupportedError for a URL."""
    if isinstance(found, Url):
        raise UnsupportedError(f"{found}: {what} must be on this machine", hint=hint)
    return found


def held_reading(file: Place) -> int:
    """Bytes that a thread which reads ``file`` holds beside its buffer."""
    return remote.HELD if isinstance(file, Url) else 0


def held_writing(file: Place) -> int:
    """Bytes that a thread which writes ``file`` holds beside what it writes."""
    return upload.HELD if isinstance(file, Url) else 0
