"""How much memory this machine has, and how fast it reads it."""

import os
import platform
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np

_READ_BYTES = 512 << 20  # several times any processor's cache
_READ_SECONDS = 0.3


def read_rate(nbytes: int, threads: int, seconds: float = _READ_SECONDS) -> float:
    """Bytes a second that ``threads`` threads read from a buffer of ``nbytes``: the best pass within ``seconds``.

    A maximum over bytes is vectorised in numpy and costs less than the memory it waits for.
    """
    parts = np.array_split(np.ones(nbytes, np.uint8), threads)
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        end = perf_counter() + seconds
        while perf_counter() < end or best == float("inf"):
            began = perf_counter()
            list(pool.map(np.max, parts))
            best = min(best, perf_counter() - began)
    return nbytes / best


def read_size(available: int) -> int:
    """Bytes to read when measuring, of ``available`` ones."""
    return max(min(_READ_BYTES, available // 4), 1 << 24)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor by its own name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    found = re.search(rf"^{key}\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return found[1].strip() if found else ""


def memory() -> dict[str, int]:
    """/proc/meminfo in bytes."""
    found = re.findall(r"^(\w+):\s+(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE)
    return {key: int(kib) * 1024 for key, kib in found}


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
