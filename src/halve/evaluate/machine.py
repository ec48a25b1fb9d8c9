"""This machine, as far as it matters here: native kernels, processor, memory and its speed, disk, optional packages."""

import os
import platform
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import halve
from halve.codecs import dispatch
from halve.hardware.measure import cores, processor, read_rate, read_size
from halve.hardware.measure import memory as meminfo
from halve.runtime.packed import kernels

try:
    from halve import _native as native
except ImportError:
    native = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What `halve doctor` reports."""

    isa: str  # of the native kernels in use; "python" where there are none
    isa_available: tuple[str, ...]  # those of the native kernels that this processor runs, the best first
    isa_forced: str  # HALVE_ISA
    packed_isa: str  # of the kernels that packed models run on; empty where there are none
    huge_pages: str  # whether the system gives them: "always", "madvise" (to who asks, as halve does), "never"
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
        yield "packed models", f"{self.packed_isa} kernels" if self.packed_isa else "no kernels: the reference path"
        yield "huge pages", self.huge_pages or "-"
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
            "packed_isa": self.packed_isa or None,
            "huge_pages": self.huge_pages or None,
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
        return f"native kernels in use: {isa}, {cores()} cores"
    missing = _missing()
    install = f"missing: {', '.join(missing)}; apt install g++ python3-dev" if missing else "the build tools are here"
    return f"NO native kernels: halve computes in pure Python, correct but slow ({install}; then reinstall halve)"


def examine(cache: Path) -> Machine:
    """Look at this machine; measuring takes less than a second. ``cache`` is on the disk that is asked for space."""
    found = meminfo()
    return Machine(
        isa=dispatch.isa(),
        isa_available=() if native is None else tuple(native.isas()),
        isa_forced=os.environ.get("HALVE_ISA", ""),
        packed_isa="" if native is None else kernels.kernels().isa,
        huge_pages=_huge_pages(),
        missing=_missing(),
        processor=processor(),
        cores=cores(),
        memory=found.get("MemTotal", 0),
        memory_available=found.get("MemAvailable", 0),
        read_rate=read_rate(read_size(found.get("MemAvailable", 0)), cores()),
        cache=cache,
        cache_free=shutil.disk_usage(next(p for p in (cache, *cache.parents) if p.exists())).free,
        python=f"{platform.python_version()} ({sys.executable})",
        numpy=np.__version__,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        extras=_extras(),
    )


def _missing() -> tuple[str, ...]:
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    compiler = any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++"))
    return tuple(name for name, there in (("g++", compiler), ("Python.h", header.exists())) if not there)


def _huge_pages() -> str:
    try:
        setting = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return ""
    found = re.search(r"\[(\w+)\]", setting)
    return found[1] if found else ""


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
