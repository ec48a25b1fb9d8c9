"""Running one function over many tensors with a few threads, each with buffers of its own."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event, local
from typing import TypeVar

from halve.checkpoint.storage import aligned_buffer

BAND_BYTES = 4 << 20  # small enough that a band and what is made of it stay in the last-level cache
BAND_ROWS = 128  # bands start at multiples of it: tiles of 128 rows, and zero points packed along rows, stay whole

Job = TypeVar("Job")
Result = TypeVar("Result")


class Cancelled(Exception):  # noqa: N818 - not an error: another worker failed first
    """Raised inside a worker when the job as a whole has been given up."""


class Buffers(local):
    """Reusable page-aligned memory for bands of ``band_bytes``, one buffer a thread."""

    def __init__(self, band_bytes: int = BAND_BYTES) -> None:
        self.band_bytes = band_bytes
        self._memory = memoryview(b"")

    def get(self, nbytes: int) -> memoryview:
        """At least ``nbytes`` of memory; what it held before is gone."""
        if len(self._memory) < nbytes:
            self._memory = aligned_buffer(max(nbytes, self.band_bytes))
        return self._memory[:nbytes]


def threads_available() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def band_rows(row_bytes: int, band_bytes: int = BAND_BYTES, multiple: int = BAND_ROWS) -> int:
    """Rows of a band of about ``band_bytes``: a ``multiple``, and at least that."""
    return max(band_bytes // max(row_bytes * multiple, 1), 1) * multiple


def bands(
    rows: int, row_bytes: int, band_bytes: int = BAND_BYTES, multiple: int = BAND_ROWS
) -> Iterable[tuple[int, int]]:
    """Row ranges (start, stop) of about ``band_bytes`` each, starting at multiples of ``multiple``."""
    step = band_rows(row_bytes, band_bytes, multiple)
    return ((start, min(start + step, rows)) for start in range(0, rows, step))


def run(function: Callable[[Job, Event], Result], jobs: Iterable[Job], threads: int | None = None) -> list[Result]:
    """``[function(job, stop) for job in jobs]`` on a few threads, in order.

    When one raises, or the user interrupts, ``stop`` is set so that the others leave soon, and the first exception is
    raised here.
    """
    stop = Event()
    with ThreadPoolExecutor(threads or threads_available(), thread_name_prefix="halve") as pool:
        futures = [pool.submit(function, job, stop) for job in jobs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            if any(f.done() and f.exception() for f in futures) or not all(f.done() for f in futures):
                stop.set()
                pool.shutdown(cancel_futures=True)
        failed = [e for f in futures if f.done() and not f.cancelled() and (e := f.exception())]
        if failed:
            raise next((e for e in failed if not isinstance(e, Cancelled)), failed[0])
        return [f.result() for f in futures]


@dataclass(frozen=True, slots=True)
class Crew:
    """How many workers a job has, and how large the bands are that each holds."""

    threads: int
    band_bytes: int = BAND_BYTES

    @classmethod
    def of(cls, threads: int | None) -> "Crew":
        """So many workers, or one a processor, with bands of the usual size."""
        return cls(threads or threads_available())

    def buffers(self) -> Buffers:
        """Memory for the bands."""
        return Buffers(self.band_bytes)

    def run(self, function: Callable[[Job, Event], Result], jobs: Iterable[Job]) -> list[Result]:
        """As `run` does."""
        return run(function, jobs, self.threads)
