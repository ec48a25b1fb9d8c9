"""Channels of an activation brought to one size: divided where they are made, multiplied where they are used.

Codes of one range for a whole activation are wasted on channels that are small. Where what makes the channels ends in
a convolution or in constants, and what uses them is a convolution, both absorb a factor for each channel, and the float
model stays the same function. Cross-layer equalization (Nagel et al., arXiv 1906.04721), here through constants
behind an activation function too, with the exponent of SmoothQuant (Xiao et al., arXiv 2211.10438).
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from halve.edge.affine import Floats
from halve.edge.model import FloatModel

_LEAST = 1e-3  # of the largest channel: smaller ones are taken for empty


def equalizable(model: FloatModel, names: tuple[str, ...]) -> dict[str, bool]:
    """Which of the activations ``names`` can absorb factors; True where all their users have a kernel a channel."""
    return {
        name: all(_group(user) > 1 for user in model.users[name])
        for name in names
        if name not in model.outputs and _usable(model, name) and _makes(model, name) is not None
    }


def equalized(model: FloatModel, factors: Mapping[str, Floats]) -> FloatModel:
    """``model`` with the channels of the activations in ``factors`` divided by them: the same function."""
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    work = _Work(FloatModel(proto, model.path, model.source))
    for name, by in factors.items():
        work.divide(name, by.astype(np.float64))
        for user in list(work.model.users[name]):
            work.multiply(user, by.astype(np.float64))
    return FloatModel(work.finished(), model.path, model.source)


def factors(low: Floats, high: Floats, weights: list[Floats], strength: float) -> Floats:
    """For channels [c] that reach from ``low`` to ``high``, under ``weights`` [out, c]: 1 in geometric mean.

    ``strength`` 1 makes all channels equally large, 0.5 divides what is large between them and the weights.
    """
    size = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
    size = np.maximum(size, _LEAST * max(size.max(initial=0), 1e-30))
    weight = np.max([np.abs(w).max(axis=0) for w in weights], axis=0).astype(np.float64)
    weight = np.maximum(weight, _LEAST * max(weight.max(initial=0), 1e-30))
    logs = strength * np.log(size) - (1 - strength) * np.log(weight)
    found: Floats = np.exp(logs - logs.mean()).astype(np.float32)
    return found


def columns(model: FloatModel, name: str) -> list[Floats]:
    """The weights of the users of activation ``name`` as [out, channels]; those with a kernel a channel count as 1."""
    found = []
    for user in model.users[name]:
        weight = model.constants[user.input[1]].astype(np.float32)
        if _group(user) > 1:
            found.append(np.ones((1, weight.shape[0]), np.float32))
        else:
            found.append(np.abs(weight).reshape(*weight.shape[:2], -1).max(axis=2))
    return found


def _group(node: NodeProto) -> int:
    return next((int(helper.get_attribute_value(one)) for one in node.attribute if one.name == "group"), 1)


def _usable(model: FloatModel, name: str) -> bool:
    """Whether convolutions alone use ``name``, each with all channels or a kernel a channel."""
    users = model.users.get(name, [])
    for user in users:
        weight = model.constants.get(user.input[1]) if user.op_type == "Conv" else None
        if weight is None or user.input[0] != name:
            return False
        if _group(user) > 1 and (_group(user) != weight.shape[0] or weight.shape[1] != 1):
            return False
    return bool(users)


def _makes(model: FloatModel, name: str) -> int | None:
    """How many channels can be divided where ``name`` is made; None where they cannot."""
    node = model.producers.get(name)
    if node is None:
        return None
    operands = [one for one in node.input if one in model.constants]
    others = [one for one in node.input if one and one not in model.constants]
    if node.op_type == "Conv":
        return model.constants[node.input[1]].shape[0] if node.input[1] in model.constants else None
    if node.op_type in ("Mul", "Div") and len(operands) == 1 and _per_channel(model, operands[0]):
        return 0 if node.op_type == "Mul" or node.input[1] == operands[0] else None
    if node.op_type == "Relu" or (node.op_type == "Add" and len(operands) == 1 and _per_channel(model, operands[0])):
        return _makes(model, others[0]) if len(model.users[others[0]]) == 1 and others[0] not in model.outputs else None
    return None


def _per_channel(model: FloatModel, name: str) -> bool:
    """Whether a constant holds one number, or one a channel of [batch, channels, height, width]."""
    shape = model.constants[name].shape
    return int(np.prod(shape)) == 1 or (len(shape) >= 3 and int(np.prod(shape)) == shape[-3])


class _Work:
    """Changes a model's constants; those that others use as well are copied first."""

    def __init__(self, model: FloatModel) -> None:
        self.model = model
        self._fresh: dict[str, NDArray[np.float64]] = {}

    def divide(self, name: str, by: NDArray[np.float64]) -> None:
        node = self.model.producers[name]
        if node.op_type == "Conv":
            self._set(node, 1, self._of(node, 1) / by.reshape(-1, *[1] * (self._of(node, 1).ndim - 1)))
            if len(node.input) > 2 and node.input[2]:
                self._set(node, 2, self._of(node, 2) / by)
            return
        at = next((i for i, one in enumerate(node.input) if one in self.model.constants), None)
        if at is not None:
            value, wide = self._of(node, at), by.reshape(-1, 1, 1)
            self._set(node, at, value * wide if node.op_type == "Div" else value / wide)
        if node.op_type in ("Relu", "Add"):
            self.divide(node.input[0 if at is None else 1 - at], by)

    def multiply(self, node: NodeProto, by: NDArray[np.float64]) -> None:
        weight = self._of(node, 1)
        shape = [-1 if i == (0 if _group(node) > 1 else 1) else 1 for i in range(weight.ndim)]
        self._set(node, 1, weight * by.reshape(shape))

    def finished(self) -> ModelProto:
        graph = self.model.proto.graph
        used = {name for node in graph.node for name in node.input}
        kept = [one for one in graph.initializer if one.name in used and one.name not in self._fresh]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        graph.initializer.extend(
            numpy_helper.from_array(value.astype(np.float32), name)
            for name, value in self._fresh.items()
            if name in used
        )
        return self.model.proto

    def _of(self, node: NodeProto, at: int) -> NDArray[np.float64]:
        return self.model.constants[node.input[at]].astype(np.float64)

    def _set(self, node: NodeProto, at: int, value: NDArray[np.float64]) -> None:
        name = node.input[at]
        if name not in self._fresh and len(self.model.users[name]) > 1:
            fresh = f"{name}_of_{node.output[0]}"
            self.model.users[name] = [one for one in self.model.users[name] if one is not node]
            self.model.users[fresh] = [node]
            node.input[at] = name = fresh
        self._fresh[name] = value
        self.model.constants[name] = value.astype(np.float32)
