"""Products of packed weights with activations."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from halve.codecs import dispatch
from halve.errors import FormatError
from halve.runtime.packed import kernels
from halve.runtime.packed.kernels import Mode
from halve.runtime.packed.weight import Weight

if TYPE_CHECKING:
    from halve._native import Pool


class Product:
    """``y = x W^T`` for each of ``weights``, all of as many columns, on the threads of ``pool``.

    ``mode`` says in what the activations are multiplied: ``exact`` float32; ``bf16``; ``int8`` with a scale for 32 of
    them where weights are integers or FP4, and bf16 elsewhere. Results do not depend on the number of threads. They are
    within 1e-5 * sum |w x| of the exact product of the weight with the activations so rounded.

    Several vectors are multiplied together, in bf16 where ``mode`` is int8. On machines with bf16 products weights are
    then rounded to bf16, too, which changes integers under scales of their own, FP16 and FP32.
    """

    def __init__(self, weights: Sequence[Weight], pool: "Pool", mode: Mode = "bf16") -> None:
        self._weights = [weight.native() for weight in weights]
        self._columns = weights[0].columns
        self._pool = pool
        self._mode = mode
        if mode not in kernels.MODES:
            raise FormatError(f"activations have no mode {mode!r}", hint=f"use {', '.join(kernels.MODES)}")
        for weight in weights:
            if weight.columns != self._columns:
                raise FormatError(
                    f"weights of {self._columns} and of {weight.columns} columns have no inputs in common"
                )

    def __call__(self, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Outputs [n, rows] of each weight for ``x`` [n, columns]. Raises FormatError for another shape or dtype."""
        if x.ndim != 2 or not len(x) or x.shape[1] != self._columns or x.dtype != np.float32:
            raise FormatError(
                f"activations are float32 [n, {self._columns}]; these are {x.dtype} of shape {list(x.shape)}"
            )
        outputs = [np.empty((len(x), weight.rows), np.float32) for weight in self._weights]
        kernels.kernels().multiply(self._pool, self._weights, dispatch.plain(x), outputs, self._mode)
        return outputs
