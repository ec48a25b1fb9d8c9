"""``--log FILE``: what a job did and how fast, one JSON object a line, for those who watch many.

| event | says |
|---|---|
| ``begin`` | the version of halve, source, out, and what was asked for |
| ``start`` | a stage that begins: its name, and where it reads the source, bytes |
| ``progress`` | bytes of the source done and to do, and the tensor, as the bar shows; or layers; about once a second |
| ``stage`` | a stage that is done: its name, seconds, and where it reads the source, bytes and bytes a second |
| ``end`` | ok, or the kind of error and its message; seconds, and the most memory that the process has held, in bytes |

A job that is resumed goes on in the same file. `halve.pipeline.job_state` reads it, also while it grows. The library's
own messages are the business of `logging`.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self

from halve.errors import OutputError
from halve.pipeline.memory import peak
from halve.pipeline.progress import Progress, ProgressCallback

_PROGRESS_SECONDS = 1.0  # between two lines of progress: an hour is half a megabyte


class JobLog:
    """Appends to the file ``path``; None: to none. A context, at whose end the end is logged.

    Raises OutputError where the file cannot be written.
    """

    def __init__(self, path: Path | None, **begin: Any) -> None:
        self._path = path
        self._began = perf_counter()
        self._told = -_PROGRESS_SECONDS  # when progress was last put down
        self._put("begin", **begin)

    def __enter__(self) -> Self:
        return self

    @contextmanager
    def stage(self, name: str, nbytes: int | None = None) -> Iterator[None]:
        """Log what is done inside as the stage ``name``, which reads ``nbytes`` of the source."""
        began = perf_counter()
        self._told = -_PROGRESS_SECONDS
        self._put("start", stage=name, **({} if nbytes is None else {"bytes": nbytes}))
        yield
        seconds = perf_counter() - began
        read = {} if nbytes is None else {"bytes": nbytes, "bytes_per_second": round(nbytes / max(seconds, 1e-9))}
        self._put("stage", stage=name, seconds=round(seconds, 3), **read, max_rss=peak())

    def watched(self, callback: ProgressCallback | None) -> ProgressCallback | None:
        """``callback``, which from now on is also told to the log; None where nobody listens."""
        if self._path is None:
            return callback

        def tell(state: Progress) -> None:
            self._progress(state.done, state.total, unit="bytes", tensor=state.tensor)
            if callback is not None:
                callback(state)

        return tell

    def layers(self, action: str, done: int, total: int) -> None:
        """Log that ``done`` of ``total`` layers are done: the ``progress`` of `halve.pipeline.calibrate`."""
        del action  # the stage says it
        self._progress(done, total, unit="layers")

    def _progress(self, done: int, total: int, **said: str) -> None:
        now = perf_counter()
        if now - self._told >= _PROGRESS_SECONDS or done >= total:
            self._told = now
            self._put("progress", done=done, total=total, **said)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = round(perf_counter() - self._began, 3)
        why = {} if error is None else {"error": type(error).__name__, "message": str(error)}
        self._put("end", ok=error is None, seconds=seconds, max_rss=peak(), **why)

    def _put(self, event: str, **said: Any) -> None:
        if self._path is None:
            return
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **said})
        try:
            with self._path.open("a") as file:
                file.write(line + "\n")
        except OSError as error:
            raise OutputError(
                f"{self._path}: {error.strerror}", hint="name a file that you may write to with --log"
            ) from None
