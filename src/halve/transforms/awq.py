"""AWQ (Lin et al., 2023, arXiv:2306.00978): columns that large inputs multiply get more of the grid's precision.

A column of weights that is multiplied by a factor, while its inputs are divided by it, loses less to rounding, as long
as it does not stretch its block. How far to go is tried out: `candidates` are the factors, the caller keeps those
under which the layers' outputs change least.
"""

from collections.abc import Iterator

import numpy as np

from halve.transforms.folding import Factors

ALPHAS = tuple(step / 20 for step in range(13))  # 0 changes nothing; no channel of SmolLM2 wanted more than 0.6
_LIMIT = 1e4


def candidates(rms: Factors) -> Iterator[Factors]:
    """What to divide each input channel by: ``rms^alpha`` for each alpha, section 3.2 of the paper.

    ``rms`` [in] is the root mean square of each input. The factors are scaled to a geometric mean of 1; a channel
    without inputs keeps 1.
    """
    log = np.zeros(len(rms), np.float64)
    used = rms > 0
    if used.any():
        log[used] = np.log(rms[used].astype(np.float64))
        log[used] -= log[used].mean()
    for alpha in ALPHAS:
        yield np.clip(np.exp(alpha * log), 1 / _LIMIT, _LIMIT).astype(np.float32)
