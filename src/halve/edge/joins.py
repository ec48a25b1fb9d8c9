"""Outputs that join boxes and scores: in one scale, as an integer target keeps them, nothing is left of the smaller."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from onnx import ModelProto, shape_inference

from halve.edge.affine import TYPES, Floats, Range
from halve.edge.model import FloatModel
from halve.edge.running import Sample, Session, decibels, energies_of
from halve.errors import UnsupportedError

_LOST = 10.0  # dB: less is destroyed
_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class Join:
    """An output that is a Concat of ``parts``; ``sqnr``: of each, in the INT8 scale of all, in dB."""

    output: str
    axis: int
    parts: tuple[str, ...]
    sqnr: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {"output": self.output, "axis": self.axis, "parts": list(self.parts), "sqnr_db": list(self.sqnr)}


def destructive(model: FloatModel, samples: Sequence[Sample]) -> tuple[Join, ...]:
    """The outputs of which a part would keep less than 10 dB in the scale of the whole, and more in one of its own."""
    found = []
    for name in model.outputs:
        node = model.producers.get(name)
        if node is None or node.op_type != "Concat" or not model.constants.keys().isdisjoint(node.input):
            continue
        if any(model.types.get(part) != np.float32 for part in node.input):
            continue
        parts = tuple(node.input)
        session = Session(model.proto, parts)
        seen = list(zip(*(session.run(sample, parts) for sample in samples[:_SAMPLES]), strict=True))
        whole = _range(list(chain.from_iterable(seen)))
        shared, own = [_left(one, whole) for one in seen], [_left(one, _range(one)) for one in seen]
        if any(less < _LOST < more for less, more in zip(shared, own, strict=True)):
            axis = next(one.i for one in node.attribute if one.name == "axis")
            found.append(Join(name, axis, parts, tuple(shared)))
    return tuple(found)


def split(model: FloatModel, joins: Sequence[Join]) -> FloatModel:
    """``model`` with the parts of ``joins`` for outputs, each where the whole was."""
    return _parted(model, {one.output: one.parts for one in joins})


def split_like(model: FloatModel, outputs: Sequence[str]) -> FloatModel:
    """``model`` with ``outputs``: as it is, or with the parts of a Concat in its place, as `split` makes them.

    Raises UnsupportedError for outputs that are neither.
    """
    if tuple(outputs) == model.outputs:
        return model
    whole = {name: model.producers.get(name) for name in model.outputs if name not in outputs}
    by = {name: tuple(node.input) for name, node in whole.items() if node is not None and node.op_type == "Concat"}
    typed = all(part in model.producers and part in model.types for part in chain.from_iterable(by.values()))
    found = _parted(model, by) if typed else model
    if found.outputs != tuple(outputs):
        raise UnsupportedError(
            f"{model.path} has the outputs {', '.join(model.outputs)}, and the quantized model {', '.join(outputs)}",
            hint="give the float model that it was made of; parts of a Concat are known, other changes are not",
        )
    return found


def _parted(model: FloatModel, by: Mapping[str, Sequence[str]]) -> FloatModel:
    """With the parts ``by`` which each output in it is replaced."""
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    graph = proto.graph
    outputs = {one.name: one for one in graph.output}
    inferred = {one.name: one for one in shape_inference.infer_shapes(proto).graph.value_info}
    for part in chain.from_iterable(by.values()):
        outputs.setdefault(part, inferred[part])  # a part has a type, or no `Join` would have been of it
    names = chain.from_iterable(by.get(name, [name]) for name in model.outputs)
    kept = [outputs[name] for name in dict.fromkeys(names)]
    del graph.output[:]
    graph.output.extend(kept)
    for node in [one for one in graph.node if one.output[0] in by and one.output[0] not in model.users]:
        graph.node.remove(node)
    return FloatModel(proto, model.path, model.source)


def _range(values: Sequence[Floats]) -> Range:
    present = [one for one in values if one.size]
    return Range(min((one.min() for one in present), default=0), max((one.max() for one in present), default=0))


def _left(values: Sequence[Floats], found: Range) -> float:
    """SQNR of ``values`` in the INT8 codes of ``found``; a part that is 0 throughout loses nothing."""
    step, zero = found.affine("int8")
    most = np.iinfo(TYPES["int8"]).max
    rounded = [((np.clip(np.rint(one / step) + zero, 0, most) - zero) * step).astype(np.float32) for one in values]
    energy = np.sum([energies_of([one], [other]) for one, other in zip(values, rounded, strict=True)], axis=0)
    return float(decibels(energy)[0]) if energy[0, 0] else np.inf
