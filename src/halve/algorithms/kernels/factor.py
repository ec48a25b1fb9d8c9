"""The factor of a Hessian that tells GPTQ how errors in some columns are made up for in others.

With the columns reordered and some damping on its diagonal, H = T'T where T is lower triangular. The cost of errors e,
e H e', is then the sum over j of (T[j, 0] e[0] + ... + T[j, j] e[j])^2: rounding columns in turn, each term can be made
small by moving column j by what the columns before it ask for, sum of e[i] * T[j, i] / T[j, j]. These are the steps of
GPTQ (Frantar et al., arXiv 2210.17323), which computes the same from the inverse of H, and of Babai's nearest plane.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halve.algorithms.kernels import native
from halve.errors import FormatError

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """The factor of a Hessian [in, in]; ``feedback`` and ``importance`` are in the order of ``order``."""

    order: NDArray[np.uint32]  # columns, the most important first
    feedback: Floats  # [in, in]: T[j, i] / T[j, j] below the diagonal
    importance: Floats  # [in]: T[j, j]^2
    damping: float  # what was added to the diagonal of the Hessian


def factor(hessian: Floats, *, damping: float) -> Factor:
    """Factorise ``hessian`` [in, in] with ``damping`` times the mean of its diagonal added to the diagonal.

    Columns come in the order of the diagonal, the largest first ("activation order"; equal ones keep theirs): where an
    error costs most, most columns are left to make up for it. A matrix that is not positive definite even so is damped
    ten times as much, up to twice. Zeros become the unit matrix: all columns alike.

    Raises FormatError for a matrix that is not finite or that cannot be the mean of x x'.
    """
    diagonal = hessian.diagonal()
    if not np.isfinite(hessian).all():
        raise FormatError("the Hessian is not finite", hint="make the statistics again")
    if (diagonal < 0).any():
        raise FormatError("the Hessian has negative numbers on its diagonal", hint="make the statistics again")
    order = np.argsort(-diagonal, kind="stable").astype(np.uint32)
    mean = float(np.add.accumulate(diagonal, dtype=np.float64)[-1]) / len(diagonal)
    for times in (1, 10, 100):
        amount = damping * times * mean if mean else 1.0
        found = native.factor(hessian, order, amount) if native.loaded() else factor_reference(hessian, order, amount)
        if found is not None:
            return Factor(order, *found, amount)
    raise FormatError(
        "the Hessian is not the mean of x x': it has negative eigenvalues", hint="make the statistics again"
    )


def factor_reference(hessian: Floats, order: NDArray[np.uint32], damping: float) -> tuple[Floats, Floats] | None:
    """``feedback`` and ``importance`` of the reordered, damped matrix in plain numpy; None: not positive definite."""
    work = hessian[np.ix_(order, order)].astype(np.float64)
    columns = len(work)
    work[np.diag_indices(columns)] += damping
    for p in reversed(range(columns)):
        if not 0 < work[p, p] < np.inf:
            return None
        root = np.sqrt(work[p, p])
        work[p, :p] /= root
        work[p, p] = root
        work[:p, :p] -= np.outer(work[p, :p], work[p, :p])
    roots = work.diagonal()
    feedback = np.tril(work / roots[:, None], -1).astype(np.float32)
    return feedback, (roots * roots).astype(np.float32)
