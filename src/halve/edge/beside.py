"""A float model and its integers on the same inputs: outputs side by side, and what each product loses."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from halve.edge.joins import split_like
from halve.edge.model import PRODUCTS, FloatModel, load
from halve.edge.running import Sample, Session, decibels, energies_of

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """One input with the first output of both models."""

    inputs: Sample
    exact: Array
    found: Array


@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """``outputs``: name and SQNR in dB; ``layers``: product, operator, SQNR in dB, the one that loses most first.

    ``agreement`` is the part of decisions (the largest of the first output's last axis) that are the same; None where
    the last axis is no choice, as in a map.
    """

    model: str
    quantized: str
    outputs: tuple[tuple[str, float], ...]
    layers: tuple[tuple[str, str, float], ...]
    agreement: float | None
    pairs: tuple[Pair, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "model": self.model,
            "quantized": self.quantized,
            "samples": len(self.pairs),
            "outputs": [{"name": name, "sqnr_db": db} for name, db in self.outputs],
            "agreement": self.agreement,
            "layers": [{"name": name, "operator": operator, "sqnr_db": db} for name, operator, db in self.layers],
        }


def compare(source: Path, quantized: Path, samples: Sequence[Sample], model: FloatModel | None = None) -> Beside:
    """``quantized`` beside the float model ``source`` that it was made of, on ``samples``.

    Outputs of products are compared up to one factor for each channel, which equalization moves from one product to the
    next. Outputs are those of ``quantized``, which may be parts of the float model's (`halve.edge.joins`).

    Raises what `load` raises, and UnsupportedError for samples that the models do not take and for other outputs.
    """
    proto = onnx.load(str(quantized))
    exact = split_like(load(source) if model is None else model, [one.name for one in proto.graph.output])
    there = {name for node in proto.graph.node for name in node.output}
    nodes = [node for node in exact.nodes if node.op_type in PRODUCTS and node.output[0] in there]
    names = [*exact.outputs, *(node.output[0] for node in nodes if node.output[0] not in exact.outputs)]
    one, other = Session(exact.proto, names), Session(proto, names)
    outputs = np.zeros((len(exact.outputs), 2))
    energies = np.zeros((len(names), 2))
    pairs = []
    for sample in samples:
        before, after = one.run(sample, names), other.run(sample, names)
        outputs += energies_of(before[: len(outputs)], after[: len(outputs)])
        energies += energies_of(before, [_matched(a, b) for a, b in zip(before, after, strict=True)])
        pairs.append(Pair(sample, before[0], after[0]))
    by_name = dict(zip(names, decibels(energies).tolist(), strict=True))
    layers = [(node.name, node.op_type, by_name[node.output[0]]) for node in nodes]
    return Beside(
        model=source.name,
        quantized=quantized.name,
        outputs=tuple(zip(exact.outputs, decibels(outputs).tolist(), strict=True)),
        layers=tuple(sorted(layers, key=lambda layer: layer[2])),
        agreement=_agreement(pairs),
        pairs=tuple(pairs),
    )


def _matched(exact: Array, found: Array) -> Array:
    """``found`` times the factor of each channel that brings it closest to ``exact``."""
    if exact.ndim != 4:
        return found
    axes = (0, 2, 3)
    wide = found.astype(np.float64)
    power = np.square(wide).sum(axis=axes, keepdims=True)
    factor = (wide * exact).sum(axis=axes, keepdims=True) / np.maximum(power, np.finfo(np.float64).tiny)
    matched: Array = (wide * factor).astype(np.float32)
    return matched


def _agreement(pairs: Sequence[Pair]) -> float | None:
    if any(pair.exact.ndim not in (2, 3) or pair.exact.shape[-1] < 2 for pair in pairs):
        return None
    same = [pair.exact.argmax(axis=-1) == pair.found.argmax(axis=-1) for pair in pairs]
    return float(np.concatenate([one.ravel() for one in same]).mean())
