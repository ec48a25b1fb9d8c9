"""What the benchmarks of interrupted jobs have in common: a job to interrupt, and whether it came out the same."""

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from measure import ENVIRONMENT

JOURNAL = Path(".halve", "journal")


@dataclass(frozen=True, slots=True)
class Job:
    """``halve quantize`` of ``source``."""

    source: Path
    scheme: str
    threads: int
    options: tuple[str, ...] = ()

    def on(self, cluster: str) -> "Job":
        """The same on a cluster."""
        return replace(self, options=(*self.options, "--cluster", cluster))

    def command(self, out: Path, *, resume: bool = False) -> list[str]:
        """The command line."""
        line = [sys.executable, "-m", "halve", "quantize", str(self.source), str(out), "--scheme", self.scheme]
        return [*line, "--threads", str(self.threads), "--json", *self.options, *["--resume"] * resume]

    def start(self, out: Path) -> subprocess.Popen[str]:
        """Begin."""
        return subprocess.Popen(
            self.command(out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        )

    def finish(self, out: Path, *, resume: bool = False) -> float:
        """Run to the end; wall seconds. Raises CalledProcessError where it fails."""
        began = time.perf_counter()
        subprocess.run(self.command(out, resume=resume), check=True, capture_output=True, text=True, env=ENVIRONMENT)
        return time.perf_counter() - began


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below ``folder``, by its path there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def kept(out: Path) -> int:
    """How many tensors the journal of an interrupted job at ``out`` says are finished."""
    try:
        lines = (out / JOURNAL).read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return 0
    return sum(len(json.loads(line)["tensors"]) for line in lines)
