"""Files behind URLs (``s3://``, ``gs://``, ``hf://``, ``memory://``), through fsspec and its drivers.

A `Url` answers what a ``pathlib.Path`` answers, as far as readers and jobs ask, so that they need not know which of the
two they hold. What may pass (a connection that drops, 503) is asked again, with waits that double; what does not pass
(no such file, no permission) is an error at once. Credentials and endpoints are the driver's own business: it finds
them where it always does (AWS_PROFILE, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN, FSSPEC_S3_ANON).

Specification: https://filesystem-spec.readthedocs.io/en/latest/api.html
"""

import errno
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any, Self, TypeVar

from halve.errors import CheckpointError, HalveError, OutputError, UnsupportedError

MARK = "://"
DRIVERS = {
    "abfs": "adlfs",
    "az": "adlfs",
    "gcs": "gcsfs",
    "gs": "gcsfs",
    "hf": "huggingface_hub",
    "http": "aiohttp",
    "https": "aiohttp",
    "s3": "s3fs",
    "s3a": "s3fs",
}
TRIES = 6
FIRST_WAIT, LONGEST_WAIT = 0.25, 8.0  # seconds; 7.75 in all, and up to half more by chance

_LASTING = (
    FileExistsError,
    FileNotFoundError,
    ImportError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
    PermissionError,
    ValueError,
)
_OURS = (AttributeError, HalveError, LookupError, MemoryError, TypeError)  # not the storage's: told as they are
_LASTING_NAMES = {"NoCredentialsError", "ParamValidationError", "PartialCredentialsError"}  # botocore's
_PASSING_STATUSES = {408, 425, 429}  # of 400 to 499: timed out, too early, too many
# What a driver calls the version of an object, the most reliable first; a time where it has no better.
_VERSIONS = ("ETag", "etag", "generation", "blob_id", "oid", "mtime", "LastModified", "last_modified", "created")

_log = logging.getLogger("halve")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Status:
    """What ``Path.stat`` tells, as far as storage behind URLs knows it."""

    st_size: int


@dataclass(frozen=True, slots=True)
class Url:
    """A file or folder behind ``text``, a URL without a slash at its end. See `halve.checkpoint.place.place`.

    Methods are those of ``pathlib.Path``. They raise UnsupportedError where the driver is missing, and CheckpointError
    where the storage refuses or does not answer.
    """

    text: str

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> "Url":
        return Url(f"{self.text}/{name}")

    @property
    def protocol(self) -> str:
        """What stands before ``://``."""
        return self.text.partition(MARK)[0]

    @property
    def _pure(self) -> PurePosixPath:
        return PurePosixPath(self.text.partition(MARK)[2])

    @property
    def name(self) -> str:
        """The last part."""
        return self._pure.name

    @property
    def suffix(self) -> str:
        """What stands behind the last dot of the name, and the dot."""
        return self._pure.suffix

    @property
    def parent(self) -> "Url":
        """The folder that it is in; a bucket is its own."""
        head, slash, _ = self.text.rpartition("/")
        return Url(head) if slash and not head.endswith(":/") else self

    def with_name(self, name: str) -> "Url":
        """Another file of the same folder."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> "Url":
        """The same with another suffix."""
        return self.with_name(self._pure.with_suffix(suffix).name)

    @property
    def parents(self) -> tuple["Url", ...]:
        """The folder that it is in, the one around it, and so on."""
        return () if self.parent == self else (self.parent, *self.parent.parents)

    def resolve(self, *, strict: bool = False) -> Self:
        """Itself: storage behind URLs has no links. Raises FileNotFoundError where it is not there, if ``strict``."""
        if strict and not self.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.text)
        return self

    def exists(self) -> bool:
        """Whether a file or folder is there."""
        return self._info() is not None

    def is_file(self) -> bool:
        """Whether a file is there."""
        info = self._info()
        return info is not None and info["type"] == "file"

    def is_dir(self) -> bool:
        """Whether a folder is there: where a store has none, whether anything begins so."""
        info = self._info()
        return info is not None and info["type"] == "directory"

    def is_symlink(self) -> bool:
        """Never."""
        return False

    def iterdir(self) -> Iterator["Url"]:
        """What is in the folder. Raises FileNotFoundError where there is none."""
        listed: list[str] = self.ask("ls", detail=False)
        own = self._path.strip("/")  # an empty object that stands for the folder itself
        return (self / PurePosixPath(path).name for path in listed if path.strip("/") != own)

    def stat(self) -> Status:
        """Its size. Raises FileNotFoundError where it is not there."""
        return Status(self._size(self._info(missing=False) or {}))

    def version(self) -> str:
        """What tells this content from another under the same name. Raises FileNotFoundError where it is not there."""
        info = self._info(missing=False) or {}
        return next((str(info[key]) for key in _VERSIONS if info.get(key) is not None), "")

    def refreshed(self) -> Self:
        """Itself, with nothing remembered of what was there before."""
        _filesystem(self).invalidate_cache()
        return self

    def ranges(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes (begin, end) of the file that ``spans`` name, fetched side by side where the driver can.

        What fails is asked for again. Raises CheckpointError as all methods do, and where a range comes short.
        """
        found: dict[tuple[int, int], bytes] = {}

        def fetch() -> None:
            left = [span for span in spans if span not in found]
            begins, ends = [begin for begin, _ in left], [end for _, end in left]
            filesystem, path = _filesystem(self), self._path
            # Drivers without ranges of their own open the file for each, and read megabytes ahead unless they are told.
            exactly = {} if filesystem.async_impl else {"cache_type": "none"}
            answers = filesystem.cat_ranges([path] * len(left), begins, ends, on_error="return", **exactly)
            failed: Exception | None = None
            for (begin, end), answer in zip(left, answers, strict=True):
                if isinstance(answer, Exception):
                    failed = answer
                elif len(answer) != end - begin:
                    failed = ConnectionError(f"{len(answer)} of {end - begin} bytes came")
                else:
                    found[begin, end] = answer
            if failed is not None:
                raise failed

        persistently(self, fetch)
        return [found[span] for span in spans]

    def ask(self, method: str, /, *arguments: Any, **options: Any) -> Any:
        """What ``method`` of the driver answers about it, after several tries if it must.

        Raises FileNotFoundError where it is not there, and else as all methods do.
        """
        found = getattr(_filesystem(self), method)
        return persistently(self, lambda: found(self._path, *arguments, **options))

    def put(self, content: bytes | Callable[[Any, str], None]) -> None:
        """Make it the file with this ``content``, or what a function sends that is given the driver and its path.

        Tried again where it fails, from the beginning. Raises OutputError where the storage refuses or does not answer.
        """
        filesystem, path = _filesystem(self), self._path

        def send() -> None:
            if isinstance(content, bytes):
                filesystem.pipe_file(path, content)
            else:
                content(filesystem, path)

        try:
            persistently(self, send, OutputError)
        except FileNotFoundError as error:
            raise OutputError(f"{self}: {_reason(error)}", hint="make the bucket first, or check the URL") from error

    def remove(self) -> None:
        """Remove the file, or the folder and all that is in it; nothing where it is not there.

        Raises OutputError where the storage refuses or does not answer.
        """
        filesystem, path = _filesystem(self), self._path
        with suppress(FileNotFoundError):
            persistently(self, lambda: filesystem.rm(path, recursive=True), OutputError)

    @property
    def _path(self) -> str:
        """What the driver calls it."""
        return str(_filesystem(self)._strip_protocol(self.text))  # noqa: SLF001 - drivers override it; callers need it

    def _info(self, *, missing: bool = True) -> Mapping[str, Any] | None:
        try:
            info: Mapping[str, Any] = self.ask("info")
        except FileNotFoundError:
            if missing:
                return None
            raise
        return info

    def _size(self, info: Mapping[str, Any]) -> int:
        size = info.get("size")
        if not isinstance(size, int):
            raise CheckpointError(
                f"{self}: its storage does not tell how large it is",
                hint="copy it to storage that does, or to this machine",
            )
        return size


def persistently(url: Url, action: Callable[[], Answer], failed: type[HalveError] = CheckpointError) -> Answer:
    """What ``action`` returns, tried again after errors that may pass.

    Raises FileNotFoundError, and what is not the storage's doing, as it comes; ``failed`` for the rest, when it lasts.
    """
    for attempt in range(TRIES):
        try:
            return action()
        except (FileNotFoundError, *_OURS):
            raise
        except Exception as error:  # every driver has its own transport, with errors of its own
            if _lasts(error):
                raise failed(f"{url}: {_reason(error)}", hint=_credentials(url)) from error
            if attempt + 1 == TRIES:
                raise failed(
                    f"{url}: no answer after {TRIES} tries: {_reason(error)}",
                    hint="check the network and the storage, then run it again",
                ) from error
            wait = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * random.uniform(1, 1.5)  # noqa: S311 - no secret
            _log.info("%s: %s; again in %.1f s", url, _reason(error), wait)
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _lasts(error: Exception) -> bool:
    """Whether asking again would change nothing."""
    if isinstance(error, _LASTING) or type(error).__name__ in _LASTING_NAMES:
        return True
    if isinstance(error, OSError) and error.errno in (errno.EINVAL, errno.ENOSPC):
        return True
    answer = getattr(error, "response", error)
    status = next(
        (s for key in ("status_code", "status", "code") if isinstance(s := getattr(answer, key, None), int)), 0
    )
    return 400 <= status < 500 and status not in _PASSING_STATUSES


def _credentials(url: Url) -> str:
    driver = DRIVERS.get(url.protocol, "the driver")
    return f"check the URL, and the credentials that {driver} finds (its own variables and files)"


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _filesystem(url: Url) -> Any:
    """The driver's object for the storage of ``url``; all threads share one."""
    protocol, _, rest = url.text.partition(MARK)
    return _driver(protocol, rest.partition("/")[0])


@cache
def _driver(protocol: str, host: str) -> Any:
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415 - an extra
    except ImportError:
        raise UnsupportedError(
            f"{protocol}{MARK}: URLs need the package fsspec, which is not installed",
            hint="pip install 'halve[storage]'",
        ) from None
    try:
        return url_to_fs(f"{protocol}{MARK}{host}")[0]
    except ValueError:
        raise UnsupportedError(
            f"{protocol}{MARK} is no protocol that fsspec knows",
            hint="use a path of this machine, or s3://, gs:// or hf://",
        ) from None
    except ImportError as error:
        package = DRIVERS.get(protocol)
        raise UnsupportedError(
            f"{protocol}{MARK} needs the package {package or 'of its driver'}, which is not installed: {error}",
            hint=f"pip install {package}" if package else "install it, beside halve[storage]",
        ) from None
