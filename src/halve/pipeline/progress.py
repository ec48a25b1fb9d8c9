"""What a running job tells about itself."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes of the source done and to do, and the tensor that was just worked on."""

    done: int
    total: int
    tensor: str


ProgressCallback = Callable[[Progress], None]


class Meter:
    """Adds up the progress of several workers and passes it on, one call at a time."""

    def __init__(self, total: int, callback: ProgressCallback | None) -> None:
        self._total = total
        self._callback = callback
        self._done = 0
        self._lock = Lock()

    def start(self, done: int) -> None:
        """Begin with ``done`` bytes that are done already."""
        with self._lock:
            self._done = done

    def add(self, nbytes: int, tensor: str) -> None:
        """Count ``nbytes`` of ``tensor`` as done."""
        if self._callback is None:
            return
        with self._lock:
            self._done += nbytes
            self._callback(Progress(self._done, self._total, tensor))
