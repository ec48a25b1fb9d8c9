"""onnx's checker and reference evaluator, and onnxruntime, on every scheme. Run by `nox -s clients`."""

import json
import subprocess
import sys
from pathlib import Path


def test_every_type_runs():
    script = Path(__file__).parents[2] / "benchmarks" / "onnx_types.py"
    done = subprocess.run([sys.executable, script, "--json"], capture_output=True, text=True, check=True)
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    assert figures[-1]["metric"] == "onnx_types"
    assert figures[-1]["met"], [figure for figure in figures if not figure["met"]]
