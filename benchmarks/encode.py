"""How fast the native codecs encode and decode, beside ml_dtypes' casts in the same process.

python benchmarks/encode.py [--quick] [--json]
"""

import argparse
import os
import time
from collections.abc import Callable

os.environ.setdefault("HALVE_REQUIRE_NATIVE", "1")

import ml_dtypes
import numpy as np

from halve import formats
from halve.codecs import dispatch
from measure import Figure

PEERS = {
    "fp4_e2m1": ml_dtypes.float4_e2m1fn,
    "fp6_e2m3": ml_dtypes.float6_e2m3fn,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
}
GOALS = {"fp4_e2m1": 20.0}


def rate(function: Callable[[], object], elements: int, repeats: int) -> float:
    """Elements per second, the best of ``repeats`` runs after a first."""
    function()
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - began)
    return elements / best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="fewer elements and repeats")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    elements, repeats = (1 << 20, 3) if args.quick else (1 << 23, 7)
    x = np.random.default_rng(0).standard_normal(elements, dtype=np.float32) * 2
    for name, peer in PEERS.items():
        fmt = formats.get(name)
        ours = rate(lambda fmt=fmt: dispatch.encode(fmt, x), elements, repeats)
        theirs = rate(lambda peer=peer: x.astype(peer), elements, repeats)
        goal = GOALS.get(name, 1.0)
        Figure(
            metric=f"encode_{name.split('_')[0]}_rate" if name in GOALS else f"encode_{name}_rate",
            value=ours / 1e6,
            unit="M/s",
            peer="ml_dtypes cast",
            peer_value=theirs / 1e6,
            ratio=ours / theirs,
            goal=f">= {goal:g}x",
            met=ours >= goal * theirs,
        ).print(as_json=args.json)


if __name__ == "__main__":
    main()
