"""Log probabilities of tokens."""

import numpy as np
from numpy.typing import NDArray

from halve.serve.job import Scored


def score(logits: NDArray[np.float32], tokens: NDArray[np.int64], alternatives: int) -> list[Scored]:
    """Score ``tokens`` [n] by ``logits`` [n, vocabulary], in nats, beside as many likeliest ``alternatives``."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(-1, keepdims=True))
    chosen = np.take_along_axis(wide, tokens[:, None], -1)[:, 0]
    count = min(alternatives, wide.shape[1])
    top = np.argpartition(-wide, max(count - 1, 0), -1)[:, :count]
    values = np.take_along_axis(wide, top, -1)
    order = np.argsort(-values, -1, kind="stable")
    top, values = np.take_along_axis(top, order, -1), np.take_along_axis(values, order, -1)
    return [
        Scored(token, logprob, tuple(zip(ids, logprobs, strict=True)))
        for token, logprob, ids, logprobs in zip(
            tokens.tolist(), chosen.tolist(), top.tolist(), values.tolist(), strict=True
        )
    ]
