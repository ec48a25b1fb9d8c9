"""Ctrl-C and SIGTERM in the middle of `halve quantize`: an exit code, and the line to type to go on."""

import shlex
import signal
import subprocess
import sys

import pytest

import halve
from halve.errors import RESUMABLE
from tiny import llama

INTERRUPTED = """
import os, signal, sys, time
from halve.checkpoint.hf import HfCheckpoint
from halve.cli.main import run
from halve.pipeline import journal

journal.SECONDS = 0.0
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
number, left = int(sys.argv.pop(1)), 15
read = HfCheckpoint.read

def interrupting(self, *arguments):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), number)
        time.sleep(1)
    return read(self, *arguments)

HfCheckpoint.read = interrupting
run()
"""


@pytest.mark.parametrize(
    ("number", "code", "says"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_it_ends_cleanly_and_the_line_it_prints_goes_on(tmp_path, number, code, says):
    source, out = llama.write(tmp_path / "source"), tmp_path / "out"
    halve.quantize(source, tmp_path / "peace" / "out", "w8a8")
    line = ["quantize", str(source), str(out), "--scheme", "w8a8", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(number.value), *line], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert f"{RESUMABLE}; to go on: halve {shlex.join(line)} --resume" in done.stderr
    again = shlex.split(done.stderr.partition("to go on: halve ")[2].splitlines()[0])
    subprocess.run([sys.executable, "-m", "halve", *again], check=True, capture_output=True, timeout=60)
    made, expected = (
        {p.name: p.read_bytes() for p in folder.iterdir()} for folder in (out, tmp_path / "peace" / "out")
    )
    assert made == expected
