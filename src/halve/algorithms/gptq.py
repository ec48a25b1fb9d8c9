"""``gptq``: codes that make up for each other's errors, as the layer's inputs go together.

GPTQ (Frantar et al., arXiv 2210.17323) on the scales of `hessian_diag`, then sweeps of coordinate descent over codes
and scales. Columns are rounded in the order of their importance while blocks stay runs of columns of the file ("static
activation order"): every engine loads the result. Given the statistics the bytes are the same on every machine.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from halve.algorithms.base import Algorithm, Needs, Prepared
from halve.algorithms.kernels import best
from halve.algorithms.kernels.candidates import exact
from halve.algorithms.kernels.descent import descend, moves_scales
from halve.algorithms.kernels.factor import Factor, factor
from halve.algorithms.kernels.feedback import feed_back
from halve.algorithms.kernels.minimum import above_minimum, without_minimum
from halve.algorithms.kernels.rows import Rows
from halve.algorithms.kernels.values import Floats
from halve.errors import UnsupportedError
from halve.schemes import Block
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import ScaleRule, Weights
from halve.schemes.statistics import Statistics

SHRINKAGE = 0.05
DAMPING = 0.003
SWEEPS = 4


def shrunk(hessian: Floats, shrinkage: float) -> Floats:
    """``hessian`` with its diagonal longer by ``shrinkage`` of itself: all correlations weaker by the same part.

    How inputs go together in the calibration text is only partly how they do elsewhere, and errors that are made up
    for through a correlation that does not hold are made twice. A multiple of the unit matrix, which GPTQ adds, does
    this to small inputs alone and to large ones not at all (benchmarks/accuracy.py).
    """
    found = hessian.astype(np.float32)  # a copy
    found[np.diag_indices_from(found)] *= np.float32(1 + shrinkage)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Gptq:
    block: Block
    hessian: Floats
    factor: Factor
    sweeps: int

    def quantize(self, w: Weights, *, rule: ScaleRule | None = None, tensor_scale: float | None = None) -> QTensor:
        diagonal = self.hessian.diagonal()
        start = best.quantize(self.block, w, diagonal, exact(self.block), rule=rule, tensor_scale=tensor_scale)
        rows = Rows.of(start)
        rows = replace(rows, codes=feed_back(w, rows, self.factor))
        codes, scales = descend(w, rows, self.hessian, damping=self.factor.damping, sweeps=self.sweeps)
        return QTensor(
            self.block, codes, scales if moves_scales(rows) else start.scales, start.tensor_scale, start.zeros
        )


@dataclass(frozen=True, slots=True)
class Gptq(Algorithm):
    """Rounding with feedback, then coordinate descent."""

    name: ClassVar[str] = "gptq"
    about: ClassVar[str] = "codes that make up for each other's errors"
    needs: ClassVar[Needs] = "hessian"

    shrinkage: float = SHRINKAGE
    damping: float = DAMPING
    sweeps: int = SWEEPS

    def prepared(self, block: Block, statistics: Statistics | None) -> Prepared:
        """Factorises the Hessian.

        Raises UnsupportedError for a block without scales or statistics without a Hessian, FormatError for a matrix
        that is none.
        """
        best.require_scales(block, self.name)
        if statistics is None or statistics.hessian is None:
            raise UnsupportedError(f"{self.name} needs the Hessian of the inputs", hint="make it: halve calibrate")
        hessian = shrunk(statistics.hessian, self.shrinkage)
        found = factor(hessian, damping=self.damping)
        return above_minimum(block, _Gptq(without_minimum(block), hessian, found, self.sweeps))


ALGORITHM = Gptq()
