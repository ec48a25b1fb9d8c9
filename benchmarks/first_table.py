"""Seconds from `git clone` to the first table, as the README's two lines have it: clone, environment, install, demo.

    python benchmarks/first_table.py [--full]

The clone is of this repository, the environment new, the model's cache empty; pip may find packages in its own cache.
`--full` leaves out `--quick`. Prints one JSON object; the table goes to stderr.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Type the lines and time each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="The whole demo instead of --quick.")
    demo = ["halve", "demo"] if parser.parse_args().full else ["halve", "demo", "--quick"]
    with tempfile.TemporaryDirectory() as folder:
        clone, environment = Path(folder) / "halve", Path(folder) / "halve" / ".venv"
        variables = os.environ | {
            "HALVE_CACHE": f"{folder}/cache",
            "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
        }
        steps = {
            "clone": ["git", "clone", "-q", ROOT, clone],
            "environment": [sys.executable, "-m", "venv", environment],
            "install": ["pip", "install", "-q", ".[demo]"],
            "demo": demo,
        }
        seconds = {}
        for name, words in steps.items():
            began = time.perf_counter()
            where = clone if clone.exists() else folder
            subprocess.run([os.fspath(word) for word in words], cwd=where, env=variables, stdout=sys.stderr, check=True)
            seconds[name] = round(time.perf_counter() - began, 1)
    print(json.dumps({**seconds, "first_table_seconds": round(sum(seconds.values()), 1)}))


if __name__ == "__main__":
    main()
