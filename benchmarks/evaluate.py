"""Whether halve measures what is there: logits, perplexity and divergence of dequantized SmolLM2, and how quickly.

    python benchmarks/peers.py transformers --prepare    # once
    python benchmarks/evaluate.py [--quick] [--json]

``kld_ordering`` is the smallest distance between neighbours in ORDER, in standard errors of the difference of their
divergences, paired by window. ``--quick`` takes fewer windows.
"""

import argparse
import json
import os
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from math import exp
from pathlib import Path

os.environ.setdefault("HALVE_REQUIRE_NATIVE", "1")

import numpy as np
from safetensors.numpy import load_file, save_file

import halve
import measure
import peers
from halve.evaluate import passages, text
from halve.evaluate.estimate import Estimate
from halve.evaluate.evaluation import Evaluation
from halve.evaluate.evaluator import WINDOW, Evaluator
from halve.pipeline import smollm2
from halve.runtime.load import load
from measure import Figure

PEER = "transformers"
EQUAL = ("fp32", "bf16")  # the same numbers, and therefore no divergence at all
ORDER = ("bf16", "fp8_dynamic", "mxfp6_e2m3a16", "nvfp4a16", "mxfp4a16")
DEMO_SECONDS = 90


@dataclass(frozen=True)
class Peer:
    """What transformers finds on the same windows."""

    logits: np.ndarray
    ppl: float
    tokens_per_s: float


def ask_peer(checkpoint: Path, windows: int, folder: Path) -> Peer | None:
    """Let the peer run ``checkpoint``; None where it is not ready."""
    if peers.python(PEER) is None:
        return None
    cut = passages.cut(text.default(), load(checkpoint).tokenizer, windows=windows, window=WINDOW)
    save_file({"tokens": np.stack([passage.tokens for passage in cut])}, folder / "tokens.safetensors")
    out = folder / "seen.safetensors"
    run = peers.run(PEER, "transformers_logits.py", checkpoint, folder / "tokens.safetensors", out, "--json")
    seen = load_file(out)
    return Peer(seen["logits"], exp(seen["nll"].mean()), json.loads(run.stdout)["tokens_per_s"])


def beside_peer(checkpoint: Path, windows: int, folder: Path) -> list[Figure]:
    """Logits, perplexity and speed."""
    theirs = ask_peer(checkpoint, windows, folder)
    model = load(checkpoint)
    first = passages.cut(text.default(), model.tokenizer, windows=1, window=WINDOW)[0]
    logits = model.logits(first.inputs, start=first.start)
    del model
    with Evaluator(windows=windows) as evaluator:
        runs = [evaluator.evaluate(checkpoint) for _ in range(2)]
    ppl, speed = runs[0].weights.ppl.mean, max(run.eval_tokens_per_s for run in runs)
    apart = None if theirs is None else float(np.abs(logits - theirs.logits).max())
    relative = None if theirs is None else abs(ppl - theirs.ppl) / theirs.ppl
    return [
        Figure(
            metric="logits_max_abs_diff",
            value=apart,
            unit="",
            goal=f"< 1e-3 from {PEER}",
            met=apart is not None and apart < 1e-3,
            peer="" if theirs else PEER,
        ),
        Figure(
            metric="ppl_rel_diff",
            value=relative,
            unit="",
            goal="< 1e-4",
            met=relative is not None and relative < 1e-4,
            peer=PEER,
            peer_value=theirs and theirs.ppl,
        ),
        Figure(
            metric="eval_tokens_per_s",
            value=speed,
            unit="tokens/s",
            goal=">= 0.5x",
            met=theirs is not None and speed >= 0.5 * theirs.tokens_per_s,
            peer="torch fp32",
            peer_value=theirs and theirs.tokens_per_s,
            ratio=theirs and speed / theirs.tokens_per_s,
        ),
    ]


def divergences(reference: Path, windows: int, folder: Path) -> list[Figure]:
    """A model against itself, and precisions against each other."""
    found: dict[str, Evaluation] = {}
    with Evaluator(reference, windows=windows) as evaluator:
        for scheme in dict.fromkeys((*EQUAL, *ORDER)):
            if scheme != reference.name:
                halve.quantize(reference, folder / scheme, scheme)
            found[scheme] = evaluator.evaluate(folder / scheme)
    itself = max(found[scheme].to_json()["kld_max"] for scheme in EQUAL)
    gaps = {f"{a} < {b}": distance(found[a], found[b]) for a, b in pairwise(ORDER)}
    nearest = min(gaps, key=lambda pair: gaps[pair])
    return [
        Figure(metric="kld_self", value=itself, unit="nats", goal="0 exactly, fp32 and bf16", met=itself == 0),
        Figure(
            metric="kld_ordering",
            value=gaps[nearest],
            unit="errors",
            goal=f"> 2, {' < '.join(ORDER)}; nearest: {nearest}",
            met=gaps[nearest] > 2,
        ),
    ]


def distance(a: Evaluation, b: Evaluation) -> float:
    """By how many standard errors ``b`` diverges further than ``a``, paired by window."""
    pairs = zip(a.weights.passages, b.weights.passages, strict=True)
    difference = Estimate.of([second.kld - first.kld for first, second in pairs])
    return difference.mean / difference.error


def demo(folder: Path) -> Figure:
    """The quick demonstration, its model already downloaded."""
    run = measure.halve("demo", "--quick", "--out", folder / "demo")
    return Figure(
        metric="demo_quick_seconds",
        value=run.seconds,
        unit="s",
        goal=f"<= {DEMO_SECONDS}",
        met=run.seconds <= DEMO_SECONDS,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="fewer windows")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = folder / "bf16"
        halve.quantize(smollm2.fetch(), reference, "bf16")
        for figure in beside_peer(reference, 2 if args.quick else 8, folder):
            figure.print(as_json=args.json)
        for figure in divergences(reference, 6 if args.quick else 20, folder):
            figure.print(as_json=args.json)
        demo(folder).print(as_json=args.json)


if __name__ == "__main__":
    main()
