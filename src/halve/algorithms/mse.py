"""``mse``: the scale of every block under which its weights change least.

Needs no data. It raises the SQNR of weights by about a decibel, which is no promise for the model: on SmolLM2 it does
not lower the KL divergence. With statistics, `hessian_diag` does the same search and does.
"""

from dataclasses import dataclass
from typing import ClassVar

from halve.algorithms.base import Algorithm, Needs, Prepared
from halve.algorithms.kernels import best
from halve.algorithms.kernels.candidates import exact
from halve.algorithms.kernels.minimum import above_minimum, without_minimum
from halve.schemes import Block
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import ScaleRule, Weights
from halve.schemes.statistics import Statistics


@dataclass(frozen=True, slots=True)
class _LeastError:
    block: Block

    def quantize(self, w: Weights, *, rule: ScaleRule | None = None, tensor_scale: float | None = None) -> QTensor:
        return best.quantize(self.block, w, None, exact(self.block), rule=rule, tensor_scale=tensor_scale)


class Mse(Algorithm):
    """The exact search over scales, every weight alike."""

    name: ClassVar[str] = "mse"
    about: ClassVar[str] = "scales under which the weights change least"
    needs: ClassVar[Needs] = "nothing"

    def prepared(self, block: Block, statistics: Statistics | None) -> Prepared:
        """Raises UnsupportedError for a block without scales."""
        del statistics
        best.require_scales(block, self.name)
        return above_minimum(block, _LeastError(without_minimum(block)))


ALGORITHM = Mse()
