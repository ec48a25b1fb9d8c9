"""``rtn``: every weight to the nearest code under its block's scale. The baseline that others must beat."""

from dataclasses import dataclass
from typing import ClassVar

from halve.algorithms.base import Algorithm, Needs, Prepared
from halve.schemes import Block
from halve.schemes import quantize as nearest
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import ScaleRule, Weights
from halve.schemes.statistics import Statistics


@dataclass(frozen=True, slots=True)
class _Nearest:
    block: Block

    def quantize(self, w: Weights, *, rule: ScaleRule | None = None, tensor_scale: float | None = None) -> QTensor:
        return nearest.quantize(self.block, w, rule=rule, tensor_scale=tensor_scale)


class Rtn(Algorithm):
    """Rounding to nearest."""

    name: ClassVar[str] = "rtn"
    about: ClassVar[str] = "round to nearest"
    needs: ClassVar[Needs] = "nothing"

    def prepared(self, block: Block, statistics: Statistics | None) -> Prepared:
        """Nothing to prepare."""
        del statistics
        return _Nearest(block)


ALGORITHM = Rtn()
