"""Second moments of what the products of a model are fed: the Hessians of their weights' errors."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from halve.edge.affine import Floats
from halve.edge.model import FloatModel
from halve.edge.windows import windows

_POSITIONS = 1024  # of a sample that are looked at


@dataclass(frozen=True, slots=True)
class Shape:
    """A product's weight as a matrix [rows, columns] for each of ``groups``."""

    groups: int
    rows: int
    columns: int


class Operand:
    """What a product multiplies its weight with, as rows of the matrices of `Shape` meet it."""

    def __init__(self, model: FloatModel, node: NodeProto) -> None:
        name = model.weight_of(node)
        assert name is not None  # noqa: S101 - callers ask for products with weights only
        self.node, self._dims = node, model.constants[name].shape
        self._attributes: dict[str, Any] = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        self.shape = self._shape()

    def vectors(self, values: Floats, random: np.random.Generator) -> Iterator[Floats]:
        """Of one sample: [positions, groups, columns], no more than 1024 positions, drawn evenly."""
        if self.node.op_type == "Conv":
            yield from self._patches(values, random)
            return
        if self.node.op_type == "ConvTranspose":
            flat = np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])
        elif self.node.op_type == "Gemm" and self._attributes.get("transA", 0):
            flat = values.T
        else:
            flat = values.reshape(-1, values.shape[-1])
        yield flat[_places(len(flat), random)][:, None]

    def _patches(self, values: Floats, random: np.random.Generator) -> Iterator[Floats]:
        spatial = len(self._dims) - 2
        for image in windows(values, self._dims[2:], self._attributes):
            sizes = image.shape[1 : 1 + spatial]
            places = np.unravel_index(_places(int(np.prod(sizes)), random), sizes)
            taken = np.moveaxis(image[(slice(None), *places)], 1, 0)  # [positions, channels, kernel...]
            yield taken.reshape(len(taken), self.shape.groups, self.shape.columns)

    def _shape(self) -> Shape:
        dims = self._dims
        if self.node.op_type == "Conv":
            groups = int(self._attributes.get("group", 1))
            return Shape(groups, dims[0] // groups, int(np.prod(dims[1:])))
        if self.node.op_type == "Gemm" and self._attributes.get("transB", 0):
            return Shape(1, dims[0], dims[1])
        if self.node.op_type == "ConvTranspose":
            return Shape(1, int(np.prod(dims[1:])), dims[0])
        return Shape(1, dims[-1], dims[0])


class Moments:
    """Sums of x x^T over what an operand is, [groups, columns, columns]."""

    def __init__(self, operand: Operand, seed: int) -> None:
        self.operand = operand
        shape = operand.shape
        self._sums = np.zeros((shape.groups, shape.columns, shape.columns), np.float64)
        self.count = 0
        self._random = np.random.default_rng(seed)

    def add(self, values: Floats) -> None:
        """One sample's."""
        for rows in self.operand.vectors(values, self._random):
            across = np.moveaxis(rows, 1, 0)
            self._sums += np.swapaxes(across, 1, 2) @ across
            self.count += len(rows)

    @property
    def hessians(self) -> Floats:
        """The means."""
        found: Floats = (self._sums / max(self.count, 1)).astype(np.float32)
        return found


def _places(count: int, random: np.random.Generator) -> NDArray[np.int64]:
    if count <= _POSITIONS:
        return np.arange(count)
    return np.sort(random.choice(count, _POSITIONS, replace=False))
