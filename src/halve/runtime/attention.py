"""Causal attention over grouped heads, in blocks of queries so that no T x T array is ever whole."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

QUERY_BLOCK = 128


def attend(
    queries: Array,
    keys: Array,
    values: Array,
    *,
    window: int | None = None,
    cap: float | None = None,
    sinks: Array | None = None,
) -> Array:
    """Attention outputs [T, heads * head_dim] of ``queries`` [heads, T, head_dim], which come already scaled.

    ``keys`` and ``values`` [kv_heads, S, head_dim] belong to positions 0..S-1, the queries to the last T of these; each
    query sees its own position and those before it, with ``window`` only the last ``window`` of them. ``cap`` c turns
    scores s into c * tanh(s / c). ``sinks`` [heads] are scores of a position that every query sees and whose value is
    nothing.
    """
    heads, count, head_dim = queries.shape
    kv_heads, length, _ = keys.shape
    first = length - count
    grouped = queries.reshape(kv_heads, heads // kv_heads, count, head_dim)
    sink = None if sinks is None else sinks.reshape(kv_heads, -1, 1, 1)
    outputs = np.empty((count, heads * head_dim), np.float32)
    by_head = outputs.reshape(count, kv_heads, -1, head_dim).transpose(1, 2, 0, 3)
    transposed, spread = keys[:, None].swapaxes(-1, -2), values[:, None]
    for start in range(0, count, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, count)
        position = first + start
        oldest = max(0, position - window + 1) if window else 0
        scores = grouped[:, :, start:stop] @ transposed[..., oldest : first + stop]
        if cap is not None:
            capped(scores, cap)
        _hide(scores, position - oldest, window)
        largest = scores.max(-1, keepdims=True)
        if sink is not None:
            np.maximum(largest, sink, out=largest)
        scores -= largest
        np.exp(scores, out=scores)
        block = by_head[:, :, start:stop]
        np.matmul(scores, spread[:, :, oldest : first + stop], out=block)
        total = scores.sum(-1, keepdims=True)
        if sink is not None:
            total += np.exp(sink - largest)
        block /= total
    return outputs


def capped(scores: Array, cap: float) -> None:
    """Turn ``scores`` s into ``cap`` * tanh(s / ``cap``), in place."""
    scores /= np.float32(cap)
    np.tanh(scores, out=scores)
    scores *= np.float32(cap)


def _hide(scores: Array, first: int, window: int | None) -> None:
    """Set what a query must not see to -inf. Row r of ``scores`` is the query of column ``first + r``."""
    rows, columns = scores.shape[-2:]
    if rows > 1:
        scores[..., first:] += _future(rows)
    if window and rows > 1 and columns > window:
        scores[..., :rows] += _past(rows, first - window)


@lru_cache(maxsize=8)
def _future(rows: int) -> Array:
    """-inf above the diagonal."""
    return np.triu(np.full((rows, rows), -np.inf, np.float32), 1)


@lru_cache(maxsize=8)
def _past(rows: int, diagonal: int) -> Array:
    """-inf on and below a diagonal: columns that lie ``window`` or more before their query."""
    return np.where(np.tri(rows, k=diagonal, dtype=np.bool_), np.float32(-np.inf), np.float32(0))
