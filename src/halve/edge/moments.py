"""Second moments of what the products of a model are fed: the Hessians of their weights' errors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import NodeProto, helper

from halve.edge.affine import Floats
from halve.edge.model import FloatModel

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
        kernel = self._dims[2:]
        spatial = len(kernel)
        strides = self._attributes.get("strides", [1] * spatial)
        dilations = self._attributes.get("dilations", [1] * spatial)
        padded = np.pad(values, [(0, 0), (0, 0), *self._pads(values.shape[2:], strides, dilations)])
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        windows = sliding_window_view(padded, reach, axis=tuple(range(2, 2 + spatial)))
        steps = (*(slice(None, None, s) for s in strides), *(slice(None, None, d) for d in dilations))
        for image in windows[(slice(None), slice(None), *steps)]:
            sizes = image.shape[1 : 1 + spatial]
            places = np.unravel_index(_places(int(np.prod(sizes)), random), sizes)
            taken = np.moveaxis(image[(slice(None), *places)], 1, 0)  # [positions, channels, kernel...]
            yield taken.reshape(len(taken), self.shape.groups, self.shape.columns)

    def _pads(self, sizes: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[tuple[int, int]]:
        kernel = self._dims[2:]
        auto = self._attributes.get("auto_pad", b"NOTSET").decode()
        if auto == "NOTSET":
            flat = self._attributes.get("pads", [0] * 2 * len(kernel))
            return list(zip(flat[: len(kernel)], flat[len(kernel) :], strict=True))
        found = []
        for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
            total = 0 if auto == "VALID" else max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            less, more = total // 2, total - total // 2
            found.append((more, less) if auto == "SAME_LOWER" else (less, more))
        return found

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
