"""``hessian_diag``: the scale of every block under which the layer's output changes least, columns taken one by one.

The change of an output is the sum of x * (weight's change) over columns; its mean square, if the inputs x were not
correlated, is the sum of E[x^2] * (weight's change)^2. So the search of `mse` is weighed by E[x^2], diagonal of the
Hessian E[x x^T]. Inputs that the text never woke count nothing beside others, and all alike where there are no others.
"""

from dataclasses import dataclass
from typing import ClassVar

from halve.algorithms.base import Algorithm, Needs, Prepared
from halve.algorithms.kernels import best
from halve.algorithms.kernels.candidates import exact
from halve.algorithms.kernels.minimum import above_minimum, without_minimum
from halve.algorithms.kernels.values import Floats
from halve.errors import UnsupportedError
from halve.schemes import Block
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import ScaleRule, Weights
from halve.schemes.statistics import Statistics


@dataclass(frozen=True, slots=True, eq=False)
class _LeastOutputError:
    block: Block
    mean_square: Floats

    def quantize(self, w: Weights, *, rule: ScaleRule | None = None, tensor_scale: float | None = None) -> QTensor:
        return best.quantize(self.block, w, self.mean_square, exact(self.block), rule=rule, tensor_scale=tensor_scale)


class HessianDiag(Algorithm):
    """The exact search over scales, weighed by the mean square of each input."""

    name: ClassVar[str] = "hessian_diag"
    about: ClassVar[str] = "scales under which the outputs change least"
    needs: ClassVar[Needs] = "mean_square"

    def prepared(self, block: Block, statistics: Statistics | None) -> Prepared:
        """Raises UnsupportedError for a block without scales, or without statistics."""
        best.require_scales(block, self.name)
        if statistics is None:
            raise UnsupportedError(f"{self.name} needs statistics of the inputs", hint="make them: halve calibrate")
        return above_minimum(block, _LeastOutputError(without_minimum(block), statistics.mean_square))


ALGORITHM = HessianDiag()
