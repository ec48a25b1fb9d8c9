"""How likely a model finds each token, and how far its distribution is from another's: in float64, token by token."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Vector = NDArray[np.float64]

_BAND = 4  # tokens at a time: temporaries of a vocabulary of 50,000 stay in the second- or third-level cache


@dataclass(frozen=True, slots=True, eq=False)
class BaseScores:
    """Of the same tokens, how the base does and how far the model is from it."""

    nll: Vector  # -ln p_base(token)
    kld: Vector  # KL(base || model) in nats over the whole vocabulary
    same_top: NDArray[np.bool_]  # whether both find the same token likeliest


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Of each scored token of a passage."""

    nll: Vector  # -ln p(token)
    base: BaseScores | None


def score(logits: Logits, targets: NDArray[np.int64], base: Logits | None = None) -> Scores:
    """Score ``logits`` [T, vocabulary] against the tokens that came [T] and, where given, against ``base``'s logits.

    The divergence is exactly 0 where the logits are equal.
    """
    bands = [slice(start, start + _BAND) for start in range(0, len(targets), _BAND)]

    def one(rows: slice) -> Scores:
        return _score(logits[rows], targets[rows], None if base is None else base[rows])

    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="halve") as pool:
        parts = list(pool.map(one, bands))
    nll = np.concatenate([part.nll for part in parts])
    of_base = [part.base for part in parts if part.base is not None]
    if not of_base:
        return Scores(nll, None)
    joined = BaseScores(
        nll=np.concatenate([part.nll for part in of_base]),
        kld=np.concatenate([part.kld for part in of_base]),
        same_top=np.concatenate([part.same_top for part in of_base]),
    )
    return Scores(nll, joined)


def _score(logits: Logits, targets: NDArray[np.int64], base: Logits | None) -> Scores:
    tokens = np.arange(len(targets))
    z = _shifted(logits)
    log_sum = np.log(np.exp(z).sum(1))
    nll = log_sum - z[tokens, targets]
    if base is None:
        return Scores(nll, None)
    b = _shifted(base)
    weights = np.exp(b)
    total = weights.sum(1)
    base_log_sum = np.log(total)
    base_nll = base_log_sum - b[tokens, targets]
    # sum p (ln p - ln q), with ln p - ln q = (b - z) + (log_sum - base_log_sum)
    kld = np.einsum("ij,ij->i", weights, np.subtract(b, z, out=z)) / total + (log_sum - base_log_sum)
    same_top = logits.argmax(1) == base.argmax(1)
    # A divergence is not negative; the rounding of a tiny one may be.
    return Scores(nll, BaseScores(base_nll, np.maximum(kld, 0), same_top))


def _shifted(logits: Logits) -> NDArray[np.float64]:
    """In float64, the largest of each token moved to 0: softmax does not see it, and exp does not overflow."""
    z = logits.astype(np.float64)
    z -= z.max(1, keepdims=True)
    return z
