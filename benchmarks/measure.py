"""One measured figure as one JSON line, or as one line of text."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

LAUNCHER = Path(__file__).with_name("launcher.py")
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
    with tempfile.NamedTemporaryFile("r") as result:
        launcher = [sys.executable, "-I", "-S", LAUNCHER, result.name]
        done = subprocess.run(
            [str(part) for part in (*launcher, *command)], capture_output=True, text=True, env=ENVIRONMENT, check=True
        )
        seconds, max_rss, code = result.read().split()
    if int(code):
        raise subprocess.CalledProcessError(int(code), command, done.stdout, done.stderr)
    return Run(float(seconds), int(max_rss), done.stdout)


def halve(*arguments: str | Path) -> Run:
    """Run ``python -m halve`` with ``arguments``."""
    return run(sys.executable, "-m", "halve", *arguments)
