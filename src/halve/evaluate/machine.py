"""This machine, as far as it matters here: native kernels, processor, memory and its speed, disk, optional packages."""

import os
import platform
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import numpy as np

import halve
from halve.codecs import dispatch

try:
    from halve import _native as native
except ImportError:
    native = None  # type: ignore[assignment]

_READ_BYTES = 512 << 20  # several times any processor's cache
_READ_SECONDS = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What `halve doctor` reports."""

    isa: str  # of the native kernels in use; "python" where there are none
    isa_available: tuple[str, ...]  # those of the native kernels that this processor runs, the best first
    isa_forced: str  # HALVE_ISA
    missing: tuple[str, ...]  # what a build would need: g++, Python.h
    processor: str
    cores: int  # that this process may use
    memory: int  # bytes
    memory_available: int
    read_rate: float  # bytes a second, all cores together
    cache: Path
    cache_free: int  # bytes
    python: str
    numpy: str
    system: str
    extras: dict[str, dict[str, str | None]]  # extra -> package -> installed version
    halve: str = halve.__version__

    columns: ClassVar[tuple[str, ...]] = ("what", "value")

    def rows(self) -> Iterator[tuple[str, str]]:
        """The cells of `columns`, a row for each fact."""
        yield "halve", self.halve
        yield "native kernels", self.isa if self.isa != "python" else "none (pure Python)"
        forced = f", forced by HALVE_ISA={self.isa_forced}" if self.isa_forced else ""
        yield "instruction sets", ", ".join(self.isa_available) + forced or "-"
        yield "processor", self.processor
        yield "cores", str(self.cores)
        yield "memory", f"{self.memory / 1e9:.1f} GB, {self.memory_available / 1e9:.1f} GB available"
        yield "read bandwidth", f"{self.read_rate / 1e9:.1f} GB/s, all cores, measured now"
        yield "cache", f"{self.cache}, {self.cache_free / 1e9:.1f} GB free"
        yield "python", self.python
        yield "numpy", self.numpy
        yield "system", self.system
        for extra, packages in self.extras.items():
            absent = [name for name, version in packages.items() if version is None]
            installed = ", ".join(f"{name} {version}" for name, version in packages.items() if version is not None)
            yield f"extra [{extra}]", f"not installed: {', '.join(absent)}" if absent else installed

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values: bytes, bytes a second."""
        return {
            "halve": self.halve,
            "native": self.isa != "python",
            "isa": self.isa,
            "isa_available": list(self.isa_available),
            "isa_forced": self.isa_forced or None,
            "missing": list(self.missing),
            "processor": self.processor,
            "cores": self.cores,
            "memory_bytes": self.memory,
            "memory_available_bytes": self.memory_available,
            "read_bytes_per_second": round(self.read_rate),
            "cache": str(self.cache),
            "cache_free_bytes": self.cache_free,
            "python": self.python,
            "numpy": self.numpy,
            "system": self.system,
            "extras": self.extras,
        }


def kernels_sentence() -> str:
    """Say whether native kernels are in use, and if not what to install: the first line of doctor and demo."""
    if (isa := dispatch.isa()) != "python":
        return f"native kernels in use: {isa}, {_cores()} cores"
    missing = _missing()
    install = f"missing: {', '.join(missing)}; apt install g++ python3-dev" if missing else "the build tools are here"
    return f"NO native kernels: halve computes in pure Python, correct but slow ({install}; then reinstall halve)"


def examine(cache: Path) -> Machine:
    """Look at this machine; measuring takes less than a second. ``cache`` is on the disk that is asked for space."""
    memory = _memory()
    return Machine(
        isa=dispatch.isa(),
        isa_available=() if native is None else tuple(native.isas()),
        isa_forced=os.environ.get("HALVE_ISA", ""),
        missing=_missing(),
        processor=_processor(),
        cores=_cores(),
        memory=memory.get("MemTotal", 0),
        memory_available=memory.get("MemAvailable", 0),
        read_rate=read_rate(_buffer_bytes(memory.get("MemAvailable", 0)), _cores()),
        cache=cache,
        cache_free=shutil.disk_usage(next(p for p in (cache, *cache.parents) if p.exists())).free,
        python=f"{platform.python_version()} ({sys.executable})",
        numpy=np.__version__,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        extras=_extras(),
    )


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


def _buffer_bytes(available: int) -> int:
    return max(min(_READ_BYTES, available // 4), 1 << 24)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _missing() -> tuple[str, ...]:
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    compiler = any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++"))
    return tuple(name for name, there in (("g++", compiler), ("Python.h", header.exists())) if not there)


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    found = re.search(rf"^{key}\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return found[1].strip() if found else ""


def _memory() -> dict[str, int]:
    """/proc/meminfo in bytes."""
    found = re.findall(r"^(\w+):\s+(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE)
    return {key: int(kib) * 1024 for key, kib in found}


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _extras() -> dict[str, dict[str, str | None]]:
    """What each ``pip install 'halve[extra]'`` adds, with installed versions; nothing in an uninstalled tree."""
    try:
        about = metadata.metadata("halve")
    except metadata.PackageNotFoundError:
        return {}
    extras: dict[str, dict[str, str | None]] = {extra: {} for extra in about.get_all("Provides-Extra") or ()}
    for requirement in about.get_all("Requires-Dist") or ():
        package = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        for extra in re.findall(r"""extra\s*==\s*['"]([\w-]+)['"]""", requirement):
            extras[extra][package] = _version(package)
    return extras


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
