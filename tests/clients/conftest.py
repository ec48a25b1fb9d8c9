"""Clients are run by the scripts of benchmarks/, in environments that `nox -s clients` prepares."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def measured():
    """A function that runs a script of benchmarks/: which metrics met their goals, and which did not."""

    def run(script):
        done = subprocess.run([sys.executable, BENCHMARKS / script, "--json"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        figures = [json.loads(line) for line in done.stdout.splitlines()]
        missed = [figure for figure in figures if not figure["met"]]
        return [figure["metric"] for figure in figures if figure["met"]], missed

    return run
