"""How much of each layer survives: of its weights, and of its outputs for the activations that it really meets."""

import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from halve.evaluate.estimate import finite
from halve.evaluate.passages import Passage
from halve.evaluate.sqnr import Sqnr
from halve.models.fused import fused_group
from halve.models.linear import OUTPUT_HEAD
from halve.runtime.linear import Activation, Array
from halve.runtime.model import Model


@dataclass(frozen=True, slots=True)
class LayerLoss:
    """SQNR of one linear layer, in dB. Outputs are for the base's inputs: what earlier layers lost is not counted.

    It is infinite where nothing is lost, and where there are no outputs: an expert that was never chosen.
    """

    name: str
    weight_db: float
    output_db: float
    operands_db: float | None  # of its outputs with quantized activations, too

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values; null where nothing is lost."""
        return {
            "name": self.name,
            "weight_db": finite(self.weight_db),
            "output_db": finite(self.output_db),
            "operands_db": finite(self.operands_db),
        }


def layer_losses(
    base: Model, model: Model, passages: Sequence[Passage], activations: Mapping[str, Activation] | None = None
) -> tuple[LayerLoss, ...]:
    """The loss of every layer of ``model`` whose weight is not ``base``'s, in the order in which they run.

    ``base`` reads ``passages``; ``activations``, by fused group, round the inputs of ``model``'s layers.
    """
    weights = _weights(base, model)
    outputs = {name: Sqnr() for name in weights}
    operands = {name: Sqnr() for name in weights if fused_group(name) in (activations or {})}

    def observe(name: str, inputs: Array, expected: Array) -> None:
        if name not in weights:
            return
        linear = model.linears[name]
        outputs[name].add(expected, linear(inputs))
        if activations and name in operands:
            operands[name].add(expected, linear(activations[fused_group(name)](inputs)))

    if weights:
        _run(base, passages, observe, weights)
    return tuple(
        LayerLoss(name, weights[name].db, outputs[name].db, operands[name].db if name in operands else None)
        for name in weights
    )


def _weights(base: Model, model: Model) -> dict[str, Sqnr]:
    """The loss of the weights that differ."""

    def one(name: str) -> Sqnr:
        sqnr = Sqnr()
        sqnr.add(base.linears[name].weight, model.linears[name].weight)
        return sqnr

    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="halve") as pool:
        losses = zip(base.linears, pool.map(one, base.linears), strict=True)
        return {name: sqnr for name, sqnr in losses if sqnr.noise}


def _run(base: Model, passages: Sequence[Passage], observe: Any, names: Collection[str]) -> None:
    base.observe = observe
    try:
        for passage in passages:
            # The output head costs as much as many layers: unless it is among them, one token of it is enough.
            base.logits(passage.inputs, start=0 if OUTPUT_HEAD in names else len(passage.inputs) - 1)
    finally:
        base.observe = None
