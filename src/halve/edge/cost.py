"""How long layers take: what they would at published rates (`terms`), and how far an NPU stays behind (`Factors`).

A layer on the NPU takes as long as the slower of its products and its traffic, and a fixed time to start. Products are
those of an array that takes a fixed number of input and output channels at once, so that few channels leave it idle
(NVDLA, whose layout the RK NPUs share: http://nvdla.org/hw/v1/hwarch.html). Functions that are not piecewise linear
take a pass of their own. What the NPU lacks runs on the CPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from halve.edge.capability import Placement
from halve.edge.layers import PRODUCTS, Layer
from halve.edge.targets import WIDTHS, Target

Array = NDArray[np.float64]
_IMAGE = 4  # input channels up to which the array takes a row of the kernel at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """Shares of published rates that are reached, and seconds. Fitted: `halve.edge.fit`.

    ``conv``, ``depthwise`` and ``product`` (MatMul, with weights or without) are of the array's rate; ``memory``,
    ``moved`` (layers that only move), ``curve`` and ``cpu`` of the memory's bandwidth; ``layer`` and ``switch`` are
    seconds for each layer on the NPU and on the CPU.
    """

    conv: float
    depthwise: float
    product: float
    memory: float
    moved: float
    curve: float
    cpu: float
    layer: float
    switch: float


NAMES = tuple(field.name for field in fields(Factors))
ARRAY = ("conv", "depthwise", "product")
_SECONDS = ("layer", "switch")


def terms(layer: Layer, placement: Placement, target: Target) -> tuple[float, ...]:
    """Seconds of each of `NAMES` at published rates; layers for the last two."""
    traffic = nbytes(layer, placement, target) / target.bandwidth
    found = dict.fromkeys(NAMES, 0.0)
    if placement.unit != "NPU":
        found |= {"cpu": traffic, "switch": 1.0}
    elif layer.op in PRODUCTS:
        kind = "depthwise" if layer.depthwise else "product" if layer.op == "MatMul" else "conv"
        found |= {kind: macs(layer, placement, target) / target.macs(placement.dtype), "memory": traffic, "layer": 1.0}
    else:
        found |= {"moved": traffic, "layer": 1.0}
    if layer.curved and placement.unit == "NPU":
        found["curve"] = 2 * _stored(layer.output, placement, target) / target.bandwidth
    return tuple(found.values())


def macs(layer: Layer, placement: Placement, target: Target) -> float:
    """Multiplications of the array, idle lanes counted."""
    atom = target.atom(placement.dtype)
    if layer.depthwise:
        channels = layer.output[1]
        return layer.macs / channels * _up(channels, atom) * atom
    if layer.op == "Conv":
        kernel = prod(layer.kernel)
        inputs, outputs = layer.inputs[0][1] // layer.group, layer.output[1] // layer.group
        depth = _up(kernel * _IMAGE, atom) if inputs <= _IMAGE else kernel * _up(inputs, atom)
        return prod(layer.output) / outputs * _up(outputs, atom) * depth
    if layer.op == "ConvTranspose":
        inputs, outputs = layer.inputs[0][1] // layer.group, layer.output[1] // layer.group
        return layer.macs / (inputs * outputs) * _up(inputs, atom) * _up(outputs, atom)
    inputs, outputs = layer.inputs[0][-1], (layer.output or (1,))[-1]  # of two vectors: a number
    return layer.macs / (inputs * outputs) * _up(inputs, atom) * _up(outputs, atom)


def nbytes(layer: Layer, placement: Placement, target: Target) -> float:
    """Bytes that a layer reads and writes: activations with their channels padded, weights as they are."""
    activations = sum(_stored(shape, placement, target) for shape in (*layer.inputs, layer.output))
    return activations + layer.weights * WIDTHS[placement.dtype]


def _stored(shape: Sequence[int], placement: Placement, target: Target) -> float:
    width = WIDTHS[placement.dtype]
    if len(shape) != 4 or placement.unit != "NPU":
        return prod(shape) * width
    atom = max(target.atom(placement.dtype) // 2, 1)
    return prod(shape) // max(shape[1], 1) * _up(shape[1], atom) * width


def _up(size: int, atom: int) -> int:
    return ceil(size / atom) * atom


def seconds(work: Array, factors: Mapping[str, Array | float]) -> Array:
    """Seconds of layers whose `terms` are the rows of ``work`` [layers, terms]."""
    part = {
        name: work[:, i] * factors[name] if name in _SECONDS else work[:, i] / factors[name]
        for i, name in enumerate(NAMES)
    }
    products = sum((part[name] for name in ARRAY), np.zeros(len(work)))
    busy = np.maximum(products, part["memory"])
    found: Array = busy + sum((part[name] for name in ("moved", "curve", "cpu", *_SECONDS)), np.zeros(len(work)))
    return found
