"""A graph in the making: nodes in order, constants without repetition, names that are not taken."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from onnx import NodeProto, TensorProto, helper, numpy_helper

from halve.checkpoint.onnx_types import FLOAT
from halve.onnx.parts import Part


class Builder:
    """Collects ``nodes`` and ``initializers``. ``taken`` are names that must not be used for new values."""

    def __init__(self, taken: set[str] | None = None) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._taken = set() if taken is None else taken
        self._made: dict[tuple[Any, ...], str] = {}

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Append a node with one output; return the output's name."""
        return self.split(operator, *inputs, outputs=(output or self.unused(operator),), **attributes)[0]

    def split(self, operator: str, *inputs: str, outputs: tuple[str, ...], **attributes: Any) -> tuple[str, ...]:
        """Append a node with several outputs; return their names."""
        self._taken.update(outputs)
        self.nodes.append(helper.make_node(operator, inputs, outputs, name=outputs[0], **attributes))
        return outputs

    def once(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """The output of a node that is there already, with the same inputs and attributes, or of a new one."""
        key = (operator, *inputs, repr(attributes))
        if key not in self._made:
            self._made[key] = self.add(operator, *inputs, **attributes)
        return self._made[key]

    def constant(self, value: ArrayLike, dtype: type[np.generic]) -> str:
        """A small constant."""
        array = np.asarray(value, dtype)
        key = ("Constant", array.dtype.str, array.shape, array.tobytes())
        if key not in self._made:
            tensor = numpy_helper.from_array(array)
            self._made[key] = self.add("Constant", output=self.unused("constant"), value=tensor)
        return self._made[key]

    def floats(self, value: ArrayLike) -> str:
        """A constant in FLOAT."""
        return self.constant(value, np.float32)

    def integers(self, value: ArrayLike) -> str:
        """A constant in INT64, which shapes and positions are in."""
        return self.constant(value, np.int64)

    def initializer(self, part: Part) -> str:
        """An initializer whose data lies in another file, at a place that is told later."""
        self.initializers.append(
            TensorProto(name=part.name, data_type=part.type.code, dims=part.dims, data_location=TensorProto.EXTERNAL)
        )
        self._taken.add(part.name)
        return part.name

    def cast(self, value: str, code: int = FLOAT.code, **attributes: Any) -> str:
        """``value`` in another type."""
        return self.once("Cast", value, to=code, **attributes)

    def unused(self, stem: str) -> str:
        """A name that is not taken, and now is."""
        number = 0
        while (name := f"{stem}_{number}" if number else stem) in self._taken:
            number += 1
        self._taken.add(name)
        return name
