"""Predictions for measured points: the roofline of each, in one array, under factors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from halve.plan.factors import Factors, prefill_seconds, step_seconds
from halve.plan.memory import GPU_RESERVE, cache_bytes, memory
from halve.plan.points import Point
from halve.plan.roofline import Array, Cut, Work, decode, prefill

# Sequences of a group that an engine takes where memory would hold more. Measured tables do not say it: of 512, 1024,
# 2048 and 4096 the one with the least error of models left out.
MAX_BATCH = 1024
MEMORY_SHARE = 0.9  # of what weights leave; vLLM's default share of all memory (--gpu-memory-utilization)
HOSTED = ("npu", "cpu", "apple")  # machines without a driver's reserve


@dataclass(frozen=True, slots=True)
class Cases:
    """Points as arrays: everything about them that no factor changes."""

    kind: Array  # of strings
    step: Work
    prompt: Work
    alone: Work  # the same prompt with a pass over the weights of its own
    batch: Array  # sequences of a group
    output: Array
    pp: Array
    dp: Array
    measured: Array
    ttft: Array  # 0 where it was not measured


def cases(points: Sequence[Point]) -> Cases:
    """The rooflines of ``points``."""
    batches = [_batch(point) for point in points]
    steps, prompts, alone = [], [], []
    for point, batch in zip(points, batches, strict=True):
        cut = Cut(*(np.array([float(n)]) for n in (point.parallel.tp, point.parallel.pp, point.parallel.dp)))
        context = np.array([point.prompt + point.output / 2])
        what = (point.shape, point.machine, point.precision)
        steps.append(decode(*what, batch=np.array([batch]), context=context, cut=cut))
        tokens = np.array([max(point.prompt, 1.0)])
        prompts.append(prefill(*what, tokens=tokens, cut=cut))
        alone.append(prefill(*what, tokens=tokens, cut=cut, alone=True))
    return Cases(
        np.array([point.kind for point in points]),
        _stacked(steps),
        _stacked(prompts),
        _stacked(alone),
        np.array(batches),
        np.array([point.output for point in points]),
        np.array([float(point.parallel.pp) for point in points]),
        np.array([float(point.parallel.dp) for point in points]),
        np.array([point.measured for point in points]),
        np.array([point.ttft for point in points]),
    )


def predict(cases: Cases, factors: Factors) -> Array:
    """In the units of `Point.measured`: seconds a token, or tokens a second offline."""
    step = step_seconds(cases.step, factors)
    prompts = cases.batch * prefill_seconds(cases.prompt, factors) / cases.output
    online = step + factors.interference * prompts
    offline = cases.batch * cases.dp / (step + prompts / cases.pp)
    return np.where(cases.kind == "offline", offline, np.where(cases.kind == "online", online, step))


def largest_batch(point: Point) -> float:
    """Sequences of a group that memory holds when each is half done; 0 where the weights alone are too much."""
    reserve = 0 if point.machine.kind in HOSTED else GPU_RESERVE
    fixed = memory(point.shape, point.precision, point.parallel, batch=0, context=0, reserve=reserve).total
    free = (point.machine.memory_gb.value or 0.0) * 1e9 - fixed
    context = point.prompt + point.output / 2
    each = cache_bytes(point.shape, point.precision, context, point.parallel.tp) / point.parallel.pp
    return max(0.0, MEMORY_SHARE * free / each)


def _batch(point: Point) -> float:
    if point.concurrency:
        return max(1.0, point.concurrency / point.parallel.dp)
    return float(np.clip(largest_batch(point), 1.0, MAX_BATCH * point.parallel.pp))


def _stacked(works: Sequence[Work]) -> Work:
    names = ("memory", "compute", "exponentials", "link", "collectives", "layers", "mixtures")
    return Work(*(np.concatenate([getattr(work, name) for work in works], axis=-1) for name in names))
