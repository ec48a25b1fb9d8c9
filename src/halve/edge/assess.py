"""Whether and how fast an NPU runs an ONNX model, told without the NPU and without the vendor's toolkit."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path

import numpy as np

from halve.edge import factors
from halve.edge.capability import Placement, place
from halve.edge.checked import Check, Step
from halve.edge.cost import nbytes, seconds, terms
from halve.edge.layers import Dtype, Layer, Shape, Table, read
from halve.edge.targets import WIDTHS, Target, find

_USUAL = 0.75  # of the time


def check(path: Path | str, target: str, *, dtype: Dtype = "INT8", shapes: Mapping[str, Shape] | None = None) -> Check:
    """What becomes of the ONNX model at ``path`` on ``target``.

    A float model is taken to run in ``dtype``; a model with Q/DQ nodes says itself what runs in INT8, INT16 or FP16.
    ``shapes`` fixes inputs whose dimensions are open.

    Raises UnknownNameError for an unknown target, CheckpointError for a file that is no ONNX model, UnsupportedError
    for a model whose shapes are not fixed, or that branches.
    """
    return checked(read(Path(path), shapes), Path(path).name, find(target), dtype)


def checked(table: Table, name: str, target: Target, dtype: Dtype) -> Check:
    """As `check`, of the layers of a model called ``name``."""
    fit = factors.fit()
    placements = [place(layer, target, dtype) for layer in table.layers]
    steps = tuple(
        _step(layer, placement, target, fit) for layer, placement in zip(table.layers, placements, strict=True)
    )
    whole = sum(step.seconds for step in steps)
    fps = 1 / whole if whole else 0.0
    fast, slow = fit.interval("INT8" if _usual(steps) else "FP16")  # of measured / predicted seconds
    return Check(
        model=name,
        target=target,
        dtype=dtype,
        quantized=table.quantized,
        steps=steps,
        fps=fps,
        fps_interval=(fps / slow, fps / fast),
        weight_bytes=sum(s.layer.weights * WIDTHS[s.placement.dtype] for s in steps),
        activation_bytes=_peak(steps),
    )


def _usual(steps: Sequence[Step]) -> bool:
    """Whether most of it is INT8 convolutions on the NPU, whose speeds are known best; others were measured in FP16."""
    known = (s.seconds for s in steps if s.placement.text == "NPU INT8" and s.layer.op != "MatMul")
    return sum(known) >= _USUAL * sum(s.seconds for s in steps)


def _step(layer: Layer, placement: Placement, target: Target, fit: factors.Fit) -> Step:
    work = np.array([terms(layer, placement, target)])
    taken = float(seconds(work, asdict(fit.factors(target.name, placement.dtype)))[0])
    cycles = round(taken * target.clock_ghz * 1e9)
    return Step(
        layer=layer,
        placement=placement,
        seconds=taken,
        cycles=cycles,
        nbytes=round(nbytes(layer, placement, target)),
    )


def _peak(steps: Sequence[Step]) -> int:
    """Bytes of the operands and the result of the layer that has most: the least that must be held at once."""
    return max(
        (sum(map(prod, (*s.layer.inputs, s.layer.output))) * WIDTHS[s.placement.dtype] for s in steps), default=0
    )
