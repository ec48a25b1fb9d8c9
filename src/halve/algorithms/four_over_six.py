"""``four_over_six``: the largest weight of an NVFP4 block becomes a 6 or a 4, whichever changes the block less.

E2M1 has no value between 4 and 6, so weights just below the largest suffer where that is a 6. Source: Cook et al., Four
Over Six, arXiv 2512.02010. Needs no data; `mse` tries these two scales and others.
"""

from dataclasses import dataclass
from typing import ClassVar

from halve.algorithms.base import Algorithm, Needs, Prepared
from halve.algorithms.kernels import best
from halve.algorithms.kernels.candidates import Candidates
from halve.errors import UnsupportedError
from halve.schemes import Block
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import ScaleRule, Weights
from halve.schemes.statistics import Statistics

_TO_FOUR = Candidates(divisors=(4,))


@dataclass(frozen=True, slots=True)
class _FourOverSix:
    block: Block

    def quantize(self, w: Weights, *, rule: ScaleRule | None = None, tensor_scale: float | None = None) -> QTensor:
        return best.quantize(self.block, w, None, _TO_FOUR, rule=rule, tensor_scale=tensor_scale)


class FourOverSix(Algorithm):
    """Two candidates for the scale."""

    name: ClassVar[str] = "four_over_six"
    about: ClassVar[str] = "FP4 block maxima to 6 or to 4"
    needs: ClassVar[Needs] = "nothing"

    def prepared(self, block: Block, statistics: Statistics | None) -> Prepared:
        """Raises UnsupportedError for blocks that are not FP4 under scales with a mantissa."""
        del statistics
        if block.element != "fp4_e2m1" or block.scale in (None, "e8m0"):
            scales = "without scales" if block.scale is None else f"under {block.scale} scales"
            raise UnsupportedError(
                f"{self.name} is for fp4_e2m1 under scales with a mantissa (nvfp4), not {block.element} {scales}",
                hint="use --algorithm mse",
            )
        return _FourOverSix(block)


ALGORITHM = FourOverSix()
