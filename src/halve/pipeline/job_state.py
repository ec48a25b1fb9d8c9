"""How far a job is: read out of its log (`halve.pipeline.job_log`), also while it runs."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from halve.errors import UnsupportedError

_RATE_SECONDS = 30.0  # over which the rate is taken
_LINE = 1 << 20  # bytes of a line, at most
_POINTS = 240  # of the curve, at most: more than a picture shows
_UNITS = ("bytes", "layers")  # of progress
_HINT = "name the FILE of a `halve quantize ... --log FILE`"


@dataclass(slots=True)
class Stage:
    """A part of the job; ``seconds`` is None while it runs."""

    name: str
    began: datetime
    nbytes: int | None  # of the source that it reads
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        rate = self.nbytes / max(self.seconds, 1e-9) if self.nbytes is not None and self.seconds is not None else None
        return {"name": self.name, "seconds": self.seconds, "bytes": self.nbytes, "bytes_per_second": rate}


@dataclass(slots=True)
class JobState:
    """The last job of a log. ``curve``: how many ``unit`` are done at times, in the last stage that tells of it."""

    said: dict[str, Any]  # what it was asked for
    began: datetime
    heard: datetime  # its last line
    stages: list[Stage] = field(default_factory=list)
    curve: list[tuple[datetime, int]] = field(default_factory=list)
    total: int | None = None
    unit: str = "bytes"
    tensor: str = ""
    max_rss: int | None = None
    end: dict[str, Any] | None = None
    _anew: bool = False  # a stage has begun since the last progress

    @property
    def running(self) -> bool:
        """Whether it has not said that it ended: it may have been killed."""
        return self.end is None

    @property
    def rate(self) -> float | None:
        """How many a second of late; None where that cannot be told."""
        late = [(time, done) for time, done in self.curve if (self.heard - time).total_seconds() <= _RATE_SECONDS]
        if len(late) < 2:
            late = self.curve[-2:]
        if len(late) < 2:
            return None
        seconds = (late[-1][0] - late[0][0]).total_seconds()
        return (late[-1][1] - late[0][1]) / seconds if seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Of the stage, at this rate; None where that cannot be told."""
        if not self.running or self._anew or not self.curve or self.total is None or not self.rate:
            return None
        return (self.total - self.curve[-1][1]) / self.rate

    def add(self, event: dict[str, Any]) -> None:
        """Go on to the next line. Raises KeyError, TypeError or ValueError for what no log holds."""
        self.heard = _time(event)
        if "max_rss" in event:
            self.max_rss = _count(event["max_rss"])
        match event["event"]:
            case "start":
                self.stages.append(_stage(event, self.heard))
                self._anew = True
            case "progress":
                if self._anew:
                    self.curve, self._anew = [], False
                self.curve.append((self.heard, _count(event["done"])))
                self.total, self.tensor = _count(event["total"]), str(event.get("tensor", ""))
                self.unit = _UNITS[_UNITS.index(event["unit"])]
            case "stage":
                stage = next((one for one in reversed(self.stages) if one.name == event["stage"]), None)
                if stage is None:  # of a halve that did not log beginnings
                    stage = _stage(event, self.heard)
                    self.stages.append(stage)
                stage.seconds = _seconds(event["seconds"])
            case "end":
                said = {name: str(event[name]) if name in event else None for name in ("error", "message")}
                self.end = {"ok": event["ok"] is True, "seconds": _seconds(event["seconds"]), **said}

    def to_json(self, now: datetime | None = None) -> dict[str, Any]:
        """As JSON-ready values; ``silent_seconds`` have passed since the last line."""
        step = -(-len(self.curve) // _POINTS) or 1
        shown = self.curve[::step] if step == 1 or not self.curve else [*self.curve[:-1:step], self.curve[-1]]
        now = datetime.now(UTC) if now is None else now
        return {
            "asked": {name: str(self.said.get(name)) for name in ("halve", "source", "out", "scheme")},
            "began": self.began.isoformat(),
            "seconds": (self.heard - self.began).total_seconds(),
            "silent_seconds": max(0.0, (now - self.heard).total_seconds()),
            "running": self.running,
            "stages": [stage.to_json() for stage in self.stages],
            "done": self.curve[-1][1] if self.curve else None,
            "total": self.total,
            "unit": self.unit,
            "tensor": self.tensor,
            "per_second": self.rate if self.running else None,
            "seconds_left": self.seconds_left,
            "max_rss": self.max_rss,
            "curve": [[(time - self.began).total_seconds(), done] for time, done in shown],
            "end": self.end,
        }


def read(path: Path) -> JobState:
    """The last job that ``path`` tells of. A line that is still being written is left for the next time.

    Raises UnsupportedError where there is no such file, or it is no log of a job.
    """
    try:
        return _folded(map(json.loads, _lines(path)))
    except OSError as error:
        raise UnsupportedError(f"{path}: {error.strerror}", hint=_HINT) from None
    except (KeyError, TypeError, ValueError, RecursionError):
        raise UnsupportedError(f"{path} is not the log of a job", hint=_HINT) from None


def _lines(path: Path) -> Iterator[bytes]:
    """Whole lines. Raises ValueError for what is no file, and for a line that is too long for a log."""
    if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
        raise ValueError("no file")
    with path.open("rb") as file:
        while (line := file.readline(_LINE)).endswith(b"\n"):
            yield line
    if len(line) == _LINE:
        raise ValueError("not a log")


def _folded(events: Iterable[Any]) -> JobState:
    """Raises ValueError where no job begins."""
    state = None
    for event in events:
        if event["event"] == "begin":
            state = JobState(event, _time(event), _time(event))
        elif state is None:
            raise ValueError("no job begins here")
        else:
            state.add(event)
    if state is None:
        raise ValueError("no job begins here")
    return state


def _stage(event: dict[str, Any], began: datetime) -> Stage:
    return Stage(str(event["stage"]), began, _count(event["bytes"]) if "bytes" in event else None)


def _time(event: dict[str, Any]) -> datetime:
    time = datetime.fromisoformat(event["time"])
    if time.tzinfo is None:
        raise ValueError("a time without its zone")
    return time


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r:.40} counts nothing")
    return value


def _seconds(value: Any) -> float:
    if not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise ValueError(f"{value!r:.40} is no time")
    return float(value)
