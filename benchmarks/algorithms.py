"""What calibrated quantizers cost: seconds of one core for a million weights, by algorithm and scheme.

    python benchmarks/algorithms.py [--quick] [--json]

The weights are those of a decoder layer in the shapes of SmolLM2-135M and, without --quick, of a 7B Llama's attention:
the cost of gptq grows with the number of inputs. Layers with the same inputs share what is computed from the Hessian,
and its Cholesky factor counts. Time is the process's CPU time on one thread, the best of several runs.
"""

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

os.environ.setdefault("HALVE_REQUIRE_NATIVE", "1")

import ml_dtypes
import numpy as np

from halve import algorithms, schemes
from halve.schemes import Block, quantize
from halve.schemes.quantize import Weights
from halve.schemes.statistics import Statistics
from measure import Figure

SCHEMES = ("nvfp4a16", "mxfp4a16", "w4a16", "w4a16_asym")
GOALS = {"hessian_diag": (0.013, 0.006), "gptq": (0.3, 0.15)}  # (must, stretch), for nvfp4a16 in SmolLM2's shapes
SMOLLM2 = ((576, (576, 192, 192)), (576, (576,)), (576, (1536, 1536)), (1536, (576,)))
LLAMA_7B = ((4096, (4096, 4096, 4096)), (4096, (4096,)))


@dataclass(frozen=True, eq=False)
class Group:
    """Layers with the same inputs."""

    weights: tuple[Weights, ...]
    statistics: Statistics


def groups(shapes: tuple[tuple[int, tuple[int, ...]], ...]) -> Iterator[Group]:
    """BF16 weights with heavy tails, and correlated inputs of very different sizes."""
    rng = np.random.default_rng(0)
    for columns, heights in shapes:
        weights = [(rng.standard_t(5, (rows, columns)) * 0.02).astype(ml_dtypes.bfloat16) for rows in heights]
        x = rng.standard_normal((columns + columns // 2, columns), np.float32)
        x += rng.standard_normal((len(x), 1), np.float32)
        x *= np.exp(rng.standard_normal(columns)).astype(np.float32)
        hessian = x.T @ x / np.float32(len(x))
        diagonal = np.ascontiguousarray(hessian.diagonal())
        yield Group(tuple(weights), Statistics(diagonal, np.abs(x).max(0), hessian, len(x)))


def seconds(name: str, block: Block, group: Group, repeats: int) -> float:
    """CPU seconds to quantize the layers of ``group``: the least of ``repeats`` runs."""
    scale = quantize.tensor_scale(block, max(quantize.absmax(weight) for weight in group.weights))
    best = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        ready = algorithms.get(name).prepared(block, group.statistics)
        for weight in group.weights:
            ready.quantize(weight, tensor_scale=scale)
        best = min(best, time.process_time() - began)
    return best


def cost(name: str, scheme: str, of: list[Group], repeats: int) -> float:
    """Core-seconds for a million weights."""
    weights = [weight for group in of for weight in group.weights]
    block = schemes.get(scheme).fitted([weight.shape[1] for weight in weights]).weight
    spent = sum(seconds(name, block, group, repeats) for group in of)
    return spent / sum(weight.size for weight in weights) * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="the scheme with goals, in the small shapes")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    measured = {"smollm2": (SMOLLM2, 5)} if args.quick else {"smollm2": (SMOLLM2, 5), "llama_7b": (LLAMA_7B, 1)}
    for model, (shapes, repeats) in measured.items():
        drawn = list(groups(shapes))
        for scheme in SCHEMES[:1] if args.quick or model == "llama_7b" else SCHEMES:
            for name, (must, stretch) in GOALS.items():
                found = cost(name, scheme, drawn, repeats)
                judged = model == "smollm2" and scheme == SCHEMES[0]
                Figure(
                    metric=f"{name}_cost" if judged else f"{name}_cost_{model}_{scheme}",
                    value=found,
                    unit="core-s/M",
                    goal=f"<= {must:g} (stretch {stretch:g})",
                    met=found <= must,
                ).print(as_json=args.json)


if __name__ == "__main__":
    main()
