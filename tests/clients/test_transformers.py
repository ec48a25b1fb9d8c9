"""transformers + compressed-tensors load what halve writes and hold the same bits. Run by `nox -s clients`."""

import json
import subprocess
import sys
from pathlib import Path


def test_transformers_loads_every_scheme_bit_for_bit():
    script = Path(__file__).parents[2] / "benchmarks" / "clients.py"
    done = subprocess.run([sys.executable, script, "--json"], capture_output=True, text=True, check=True)
    figure = json.loads(done.stdout)
    assert figure["metric"] == "transformers_loads"
    assert figure["met"], done.stdout
