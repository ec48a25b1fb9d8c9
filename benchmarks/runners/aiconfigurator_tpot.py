"""In the environment of the peer `aiconfigurator`: its arguments as JSON a line in, seconds a token or null out."""

import json
import logging
import sys
import warnings

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)

from aiconfigurator.cli.api import cli_estimate  # noqa: E402 - it warns while it is imported


def tpot(arguments: dict[str, object]) -> float | None:
    """Its estimate; None where it has none for this model, machine, engine and precision."""
    try:
        return float(cli_estimate(**arguments).tpot) / 1e3
    except Exception:  # noqa: BLE001 - whatever it raises, there is no estimate
        return None


for line in sys.stdin:
    print(json.dumps(tpot(json.loads(line))), flush=True)
