"""How much of a machine's limits engines reach: fitted numbers, read from ``data/factors.json``, which `fit` writes.

A few factors hold everywhere. Three of them (bandwidth, prefill rate, seconds a layer) also differ by kind of
measurement, engine, generation, precision, and by the three together, as far as points say so: each difference is
shrunk towards none, and what was never measured has none.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from halve.plan.roofline import TERMS, Array, Work

# A generation without points is taken to be used as well as the one before it: their chips differ less than engines do.
PREDECESSORS = {"rubin": "blackwell"}
VARYING = ("bandwidth", "prefill_rate", "layer_s")
_EXPERTS, _ATTENTION = TERMS.index("experts"), TERMS.index("attention")


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """Shares of limits (rows of one number a case), and seconds.

    ``cache`` and ``experts`` are bandwidths, and ``experts_rate`` a rate, relative to those of plain matrices.
    ``interference`` is how much prefilling others' prompts delays a step, per second of prefill.
    """

    bandwidth: Array
    cache: Array
    experts: Array
    rate: Array
    prefill_rate: Array
    experts_rate: Array
    link: Array
    layer_s: Array
    mixture: Array  # what experts add to a layer, relative to layer_s
    step_s: Array
    collective_s: Array
    interference: Array


def share(x: Array) -> Array:
    """``x`` where it is small, and never 1: no machine is faster than its data sheet."""
    squared: Array = x / (1 + x**4) ** 0.25
    return squared


def step_parts(work: Work, factors: Factors) -> dict[str, Array]:
    """Seconds of a decode step by what they are spent on; they add up to the step."""
    bandwidth = np.stack([share(factors.bandwidth)] * len(TERMS))
    bandwidth[_ATTENTION] = share(factors.bandwidth * factors.cache)
    bandwidth[_EXPERTS] = share(factors.bandwidth * factors.experts)
    rate = np.stack([share(factors.rate)] * len(TERMS))
    exponentials = work.exponentials / rate
    rate[_EXPERTS] *= factors.experts_rate
    memory, compute = work.memory / bandwidth, work.compute / rate
    longest = np.maximum(np.maximum(memory, compute), exponentials)
    reads = np.where(memory >= longest, longest, 0)
    multiplies = np.where((compute >= longest) & (memory < longest), longest, 0)
    parts = {f"reading {_NAMES[i]}": reads[i] for i in range(len(TERMS))}
    parts |= {"arithmetic": multiplies.sum(0), "exponentials": (longest - reads - multiplies).sum(0)}
    parts["links"] = work.link / factors.link + work.collectives * factors.collective_s
    parts["launching layers"] = (work.layers + factors.mixture * work.mixtures) * factors.layer_s + factors.step_s
    return parts


_NAMES = ("projections", "the cache", "the MLP", "experts", "the head")


def step_seconds(work: Work, factors: Factors) -> Array:
    """Seconds of a decode step."""
    total: Array = np.sum(list(step_parts(work, factors).values()), axis=0)
    return total


def prefill_seconds(work: Work, factors: Factors) -> Array:
    """Seconds of reading a prompt."""
    rate = np.stack([share(factors.prefill_rate)] * len(TERMS))
    exponentials = work.exponentials / rate
    rate[_EXPERTS] *= factors.experts_rate
    memory = work.memory / share(factors.bandwidth)
    total: Array = np.maximum(np.maximum(memory, work.compute / rate), exponentials).sum(0) + work.link / factors.link
    return total


@dataclass(frozen=True, slots=True)
class First:
    """The time to the first token of a server: ``seconds``, and prefilling alone x (``prefill`` + ``queue`` x batch).

    Measured while a fixed number of users sends the next request as soon as the last is answered.
    """

    seconds: float
    prefill: float
    queue: float

    def time(self, prefill: Array, batch: Array) -> Array:
        """Seconds, for prompts that take ``prefill`` seconds alone among ``batch`` sequences of a group."""
        total: Array = self.seconds + prefill * (self.prefill + self.queue * batch)
        return total

    def to_json(self) -> dict[str, float]:
        """As the data file has it."""
        return {name: _rounded(getattr(self, name)) for name in ("seconds", "prefill", "queue")}


def level_names(kind: str, engine: str, generation: str, precision: str) -> tuple[str, ...]:
    """Where differences are looked for: each of the four, and three together."""
    return (
        f"kind {kind}",
        f"engine {engine}",
        f"generation {generation}",
        f"precision {precision}",
        f"{generation}, {engine}, {precision}",
    )


@dataclass(frozen=True, slots=True)
class Fitted:
    """The content of the data file. ``intervals``: p10 and p90 of measured / predicted, by kind."""

    everywhere: Mapping[str, float]
    first: First
    levels: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, tuple[float, float]]
    unmeasured: Mapping[str, tuple[float, float]]
    measured: Mapping[str, tuple[str, ...]]  # kind -> machines
    about: Mapping[str, Any]

    def factors(self, kind: str, engine: str, generation: str, precision: str) -> Factors:
        """The factors of a case."""
        values = dict(self.everywhere)
        if f"generation {generation}" not in self.levels:
            generation = PREDECESSORS.get(generation, generation)
        for level in level_names(kind, engine, generation, precision):
            for name, factor in self.levels.get(level, {}).items():
                values[name] *= factor
        return Factors(**{name: np.array([value]) for name, value in values.items()})

    def interval(self, kind: str, machine: str) -> tuple[float, float]:
        """Factors from a prediction to its p10 and p90; wider where the machine has no measured point."""
        table = self.intervals if machine in self.measured.get(kind, ()) else self.unmeasured
        return table[kind]

    def to_json(self) -> dict[str, Any]:
        """As the data file has it."""
        return {
            "about": dict(self.about),
            "everywhere": {key: _rounded(value) for key, value in self.everywhere.items()},
            "first": self.first.to_json(),
            "levels": {
                level: {key: _rounded(value) for key, value in values.items()}
                for level, values in sorted(self.levels.items())
            },
            "intervals": {key: [_rounded(v) for v in pair] for key, pair in self.intervals.items()},
            "unmeasured": {key: [_rounded(v) for v in pair] for key, pair in self.unmeasured.items()},
            "measured": {key: list(names) for key, names in self.measured.items()},
        }


@cache
def fitted() -> Fitted:
    """The shipped factors."""
    content = json.loads(files("halve.plan").joinpath("data/factors.json").read_text("utf-8"))
    return Fitted(
        content["everywhere"],
        First(**content["first"]),
        content["levels"],
        {key: (pair[0], pair[1]) for key, pair in content["intervals"].items()},
        {key: (pair[0], pair[1]) for key, pair in content["unmeasured"].items()},
        {key: tuple(names) for key, names in content["measured"].items()},
        content["about"],
    )


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
