"""GPTQ: rounding column after column, each moved by what the errors of those before it ask for."""

import numpy as np

from halve.algorithms.kernels import native
from halve.algorithms.kernels.factor import Factor
from halve.algorithms.kernels.rows import Rows
from halve.algorithms.kernels.values import codes_of, nearest_values, values_of
from halve.codecs.reference import Codes
from halve.schemes.quantize import Weights


def feed_back(w: Weights, rows: Rows, factor: Factor) -> Codes:
    """Codes [out, in] of ``w`` under the scales of ``rows``. A row keeps its codes where they cost no more."""
    if native.available(rows.block):
        return native.feed_back(w, rows, order=factor.order, feedback=factor.feedback, importance=factor.importance)
    return feed_back_reference(w, rows, factor)


def feed_back_reference(w: Weights, rows: Rows, factor: Factor) -> Codes:
    """What :func:`feed_back` computes, in plain numpy."""
    element = rows.block.element_format
    steps, zeros = rows.spread(rows.steps), rows.spread_zeros
    x = w.astype(np.float32)
    values = np.zeros_like(x)
    moves, start_moves = np.zeros_like(x), np.zeros_like(x)
    cost, start_cost = np.zeros(len(x), np.float32), np.zeros(len(x), np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        start_errors = x - values_of(element, rows.codes, zeros) * steps
        for j, column in enumerate(factor.order):
            at = np.s_[:, column]
            zero = None if zeros is None else zeros[at]
            values[at] = nearest_values(element, (x[at] + moves[:, j]) / steps[at], zero)
            error = x[at] - values[at] * steps[at]
            miss, start_miss = moves[:, j] + error, start_moves[:, j] + start_errors[at]
            cost += miss * miss * factor.importance[j]
            start_cost += start_miss * start_miss * factor.importance[j]
            asked = factor.feedback[j + 1 :, j]
            moves[:, j + 1 :] += error[:, None] * asked
            start_moves[:, j + 1 :] += start_errors[at][:, None] * asked
    return np.where((cost < start_cost)[:, None], codes_of(element, values, zeros), rows.codes)
