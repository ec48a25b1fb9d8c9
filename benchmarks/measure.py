"""One measured figure as one JSON line, or as one line of text."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ENVIRONMENT = os.environ | {"HALVE_REQUIRE_NATIVE": "1"}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure, the peer's, and whether the goal is met. ``goal`` is in words; a missing peer is never met."""

    metric: str
    value: float | None
    unit: str
    goal: str
    met: bool
    peer: str = ""
    peer_value: float | None = None
    ratio: float | None = None

    def print(self, *, as_json: bool) -> None:
        """Print the figure."""
        if as_json:
            print(json.dumps(asdict(self)), flush=True)
            return
        value = "-" if self.value is None else f"{self.value:.4g} {self.unit}"
        peer = f"   {self.peer} {self.peer_value:.4g}" if self.peer and self.peer_value is not None else ""
        peer = peer or (f"   {self.peer} missing" if self.peer else "")
        ratio = f"   ratio {self.ratio:.3g}" if self.ratio is not None else ""
        print(f"{self.metric:28s} {value:>16s}{peer}{ratio}   goal {self.goal}: {'met' if self.met else 'MISSED'}")


@dataclass(frozen=True)
class Run:
    """A finished command: wall seconds, and peak memory in bytes of its process (ru_maxrss)."""

    seconds: float
    max_rss: int
    stdout: str


def run(*command: str | Path) -> Run:
    """Run a command to its end. Raises CalledProcessError with what it said where it fails."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        began = time.perf_counter()
        process = subprocess.Popen([str(part) for part in command], stdout=stdout, stderr=stderr, env=ENVIRONMENT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        stderr.seek(0)
        said = stdout.read()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command, said, stderr.read())
        return Run(seconds, usage.ru_maxrss * 1024, said)


def halve(*arguments: str | Path) -> Run:
    """Run ``python -m halve`` with ``arguments``."""
    return run(sys.executable, "-m", "halve", *arguments)
