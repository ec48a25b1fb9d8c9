"""Biases that take back by how much rounding moves the mean of a product's outputs.

As in Nagel et al. (arXiv 1906.04721), section 4.2, with the means of calibration inputs; each product by itself, behind
operands that nothing but their own rounding has changed.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from halve.edge.affine import TYPES, Floats
from halve.edge.model import FloatModel
from halve.edge.moments import Operand
from halve.edge.qdq import Integers, channel_axis
from halve.edge.running import Sample, Session


def corrected(model: FloatModel, integers: Integers, samples: Sequence[Sample], seed: int) -> dict[str, Floats]:
    """The biases of ``integers``, corrected on ``samples``."""
    nodes = [n for n in model.nodes if n.op_type != "ConvTranspose" and len(n.input) > 2 and model.weight_of(n)]
    nodes = [node for node in nodes if node.input[2] in integers.biases and node.input[0] in integers.ranges]
    if not nodes:
        return dict(integers.biases)
    taps = list(dict.fromkeys(node.input[0] for node in nodes))
    session, random = Session(model.proto, taps), np.random.default_rng(seed)
    operands = {node.name: Operand(model, node) for node in nodes}
    sums: dict[str, NDArray[np.float64]] = {}
    counts = dict.fromkeys(operands, 0)
    for sample in samples:
        values = dict(zip(taps, session.run(sample, taps), strict=True))
        for node in nodes:
            for rows in operands[node.name].vectors(values[node.input[0]], random):
                both = np.stack(
                    [rows.sum(axis=0, dtype=np.float64), _rounded(rows, integers, node.input[0]).sum(axis=0)]
                )
                sums[node.name] = sums.get(node.name, 0) + both
                counts[node.name] += len(rows)
    biases = dict(integers.biases)
    for node in nodes:
        shape, weight = operands[node.name].shape, node.input[1]
        turned = channel_axis(node, model.constants[weight].ndim) == model.constants[weight].ndim - 1 != 0
        exact, codes = (
            (w.T if turned else w).reshape(shape.groups, shape.rows, shape.columns)
            for w in (model.constants[weight].astype(np.float64), integers.weights[weight].values.astype(np.float64))
        )
        mean, mean_rounded = sums[node.name] / max(counts[node.name], 1)
        moved = np.einsum("grc,gc->gr", codes, mean_rounded) - np.einsum("grc,gc->gr", exact, mean)
        biases[node.input[2]] = (biases[node.input[2]] - moved.reshape(-1)).astype(np.float32)
    return biases


def _rounded(values: Floats, integers: Integers, name: str) -> NDArray[np.float64]:
    scale, zero = integers.affine(name)
    most = np.iinfo(TYPES[integers.kind(name)]).max
    codes: NDArray[np.float64] = np.clip(np.rint(values.astype(np.float64) / scale) + zero, 0, most)
    return (codes - zero) * float(scale)
