"""From Verilog to gates of a library: Yosys and abc, with one script for every design."""

import json
import os
import re
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from halve.errors import UnsupportedError
from halve.silicon.generate import verilog
from halve.silicon.liberty import Library
from halve.silicon.netlist import Netlist, from_json
from halve.silicon.unit import Unit

# Word-level clean-up, adders and multipliers from Yosys' own library, then abc: `&dch` gathers structural choices and
# `&nf` maps them for delay first and area along paths with slack. Results depend on it: it is part of every record.
ABC = "strash;dc2;&get,-n;&dch,-f;&nf;&put;topo"
SCRIPT = f"""read_verilog design.v
hierarchy -top {{top}}
proc
flatten
opt
wreduce
peepopt
opt_clean
alumacc
share
opt
techmap
opt -full
abc -liberty {{library}} {{unusable}}-script +{ABC}
opt_clean -purge
write_json netlist.json"""

_RUN = """import sys
from pyosys import libyosys
design = libyosys.Design()
for line in open("script.ys"):
    libyosys.run_pass(line.strip(), design)
"""
_ERRORS = re.compile(r"^.*?\b(?:Error|ERROR): (.*)$", re.MULTILINE)
_LONGEST = 1800  # seconds


def tools() -> dict[str, str]:
    """Versions of what makes circuits. Raises UnsupportedError where one is not installed."""
    found = {}
    for name in ("pyrtl", "pyosys"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            raise UnsupportedError(
                f"gates are measured with {name}, which is not installed", hint="pip install 'halve[silicon]'"
            ) from None
    return found


def synthesise(unit: Unit, library: Library) -> Netlist:
    """``unit`` in cells of ``library``; equal versions of the tools give equal netlists.

    Raises UnsupportedError where the tools are not installed, or fail, as with a library that abc cannot use.
    """
    tools()
    module = _yosys(verilog(unit), unit.title, library)
    return from_json(module, library)


def script(top: str, library: Library) -> str:
    """What Yosys runs."""
    unusable = "".join(f"-dont_use {name} " for name in library.unusable)
    return SCRIPT.format(top=top, library=f'"{library.path.resolve()}"', unusable=unusable)


def _yosys(text: str, top: str, library: Library) -> dict[str, Any]:
    """In a process and a folder of its own: a crash is not ours, and no cache of another library is read."""
    with tempfile.TemporaryDirectory(prefix="halve-silicon-") as name:
        folder = Path(name)
        (folder / "design.v").write_text(text)
        (folder / "script.ys").write_text(script(top, library))
        try:
            done = subprocess.run(  # noqa: S603 - this Python, on files that were written here
                [sys.executable, "-c", _RUN],
                cwd=folder,
                env=os.environ | {"TMPDIR": name},
                capture_output=True,
                text=True,
                timeout=_LONGEST,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UnsupportedError(
                f"{top}: Yosys has not ended within {_LONGEST} s", hint="choose a smaller unit or format"
            ) from None
        netlist = folder / "netlist.json"
        if done.returncode or not netlist.exists():
            said = _ERRORS.findall(done.stdout + done.stderr) or ["it ended without a word"]
            raise UnsupportedError(
                f"{top}: Yosys failed: {'; '.join(said)}",
                hint=f"abc needs an inverter, a buffer, NAND and NOR, with areas and delays: has {library.path} all?",
            )
        module: dict[str, Any] = json.loads(netlist.read_text())["modules"][top]
        return module
