"""Linear layers in float32: one by one, fused where they share their inputs, split where they are stored as one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Activation = Callable[[Array], Array]
Observe = Callable[[str, Array, Array], None]


@dataclass(slots=True, eq=False)
class Linear:
    """``y = activation(x) W^T + bias``; ``weight`` is [out, in], and a view where layers are fused: change it in place.

    ``activation``, where set, is applied to the inputs [T, in] before the product (it quantizes them for evaluation).
    ``tied`` marks an output head whose weight is the embedding.
    """

    name: str
    weight: Array
    bias: Array | None = None
    tied: bool = False
    activation: Activation | None = None

    def __call__(self, inputs: Array, observe: Observe | None = None) -> Array:
        """Outputs [T, out] of ``inputs`` [T, in]; ``observe`` sees the name, the inputs as they came, the outputs."""
        operand = inputs if self.activation is None else self.activation(inputs)
        outputs = _product(operand, self.weight, self.bias)
        if observe is not None:
            observe(self.name, inputs, outputs)
        return outputs


class Fused:
    """Linears with the same inputs, run as one product over their stacked weights, of which theirs are views."""

    def __init__(self, sizes: dict[str, int], columns: int, *, bias: bool) -> None:
        ends = np.cumsum(list(sizes.values()))
        self._weight = np.empty((int(ends[-1]), columns), np.float32)
        self._bias = np.empty(int(ends[-1]), np.float32) if bias else None
        self._ranges = [slice(int(end) - size, int(end)) for end, size in zip(ends, sizes.values(), strict=True)]
        self.parts = tuple(
            Linear(name, self._weight[rows], None if self._bias is None else self._bias[rows])
            for name, rows in zip(sizes, self._ranges, strict=True)
        )

    def __call__(self, inputs: Array, observe: Observe | None = None) -> list[Array]:
        """Outputs [T, out] of each part; one product unless somebody watches or the parts quantize differently."""
        activation = self.parts[0].activation
        if observe is not None or any(part.activation is not activation for part in self.parts):
            return [part(inputs, observe) for part in self.parts]
        operand = inputs if activation is None else activation(inputs)
        outputs = _product(operand, self._weight, self._bias)
        return [outputs[:, columns] for columns in self._ranges]


class Split:
    """One linear layer whose outputs are those of several: ``parts`` of its columns each."""

    def __init__(self, linear: Linear, parts: Sequence[slice]) -> None:
        self.linear = linear
        self._parts = parts

    def __call__(self, inputs: Array, observe: Observe | None = None) -> list[Array]:
        """Outputs [T, out] of each part."""
        outputs = self.linear(inputs, observe)
        return [outputs[:, columns] for columns in self._parts]


def _product(inputs: Array, weight: Array, bias: Array | None) -> Array:
    outputs: Array = inputs @ weight.T
    if bias is not None:
        outputs += bias
    return outputs
