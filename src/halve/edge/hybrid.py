"""16 bits for as few activations as it takes: where 8 bits cost the outputs most for each multiplication.

The model is calibrated for 8 bits and for 16, which choose weights and ranges differently; the search starts from both.

The noise that 8 bits in one activation alone add to the outputs is measured for each. For a budget of noise, a knapsack
leaves the dearest activations in 8 bits whose noises fit in it. The budget is what the goal leaves over that of 16 bits
in all activations, and less where the whole model then misses the goal on samples kept aside, which the weights have
not seen. One number is searched, not a decision for each activation: a few samples that are asked often are
soon satisfied by chance.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halve.edge import bias, noise
from halve.edge.affine import Activations, Range
from halve.edge.calibrators import CALIBRATORS, Seen
from halve.edge.knapsack import dearest
from halve.edge.macs import Product, products
from halve.edge.model import FloatModel
from halve.edge.noise import Judge
from halve.edge.ptq import AUTO, HEADROOM, Calibrated, Report, biases_of, calibrate, judged, layers, parted, silent
from halve.edge.qdq import Integers, quantized
from halve.edge.running import Sample, Session
from halve.errors import UnsupportedError

Outputs = Mapping[str, NDArray[np.generic]]
Metric = Callable[[Sequence[Outputs], Sequence[Outputs]], float]
_KINDS: tuple[Activations, ...] = ("int8", "int16")
WITHIN = 3.0  # dB below all activations in 16 bits
_FOR_BIASES = 16  # samples
_BUDGETS = 32  # of noise that are tried on the whole model, ever smaller ones
_STEP = 0.8  # from one to the next
_BYTES = 1e-4  # of all multiplications: what 16 bits cost in an activation that no product reads


@dataclass(frozen=True, slots=True)
class Goal:
    """What the outputs must reach: ``least`` of SQNR in dB, or of ``metric``.

    Without ``least``: what all activations in 16 bits leave, less ``within``. A metric is called with the outputs of
    the float model and of the integer one, a mapping from name to array for each sample; more is better.
    """

    least: float | None = None
    metric: Metric | None = None
    within: float = WITHIN


@dataclass(frozen=True, slots=True)
class Raised:
    """An activation in 16 bits: the multiplications of products that read it, what 8 bits would cost in dB."""

    name: str
    macs: int
    loss: float


@dataclass(frozen=True, slots=True, eq=False)
class Mixed:
    """A mix of 8 and 16 bits; scores are SQNR in dB or the metric's."""

    calibrated: Calibrated  # as it is stored in the end
    starts: tuple[Calibrated, ...]  # for 8 bits, and for 16
    raised: tuple[Raised, ...]
    macs_raised: int
    macs: int
    narrow: float  # the score of all activations in 8 bits
    widest: float  # in 16
    goal: float
    score: float

    @property
    def part(self) -> float:
        """Of the multiplications, how many are of 16 bits."""
        return self.macs_raised / max(self.macs, 1)

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "raised": [{"activation": one.name, "macs": one.macs, "loss_db": one.loss} for one in self.raised],
            "macs_raised": self.macs_raised,
            "macs": self.macs,
            "part": self.part,
            "all_int8": self.narrow,
            "all_int16": self.widest,
            "goal": self.goal,
            "reached": self.score,
        }


def mixed(
    model: FloatModel,
    samples: Sequence[Sample],
    goal: Goal,
    *,
    calibrator: str = AUTO,
    seed: int = 0,
    report: Report | None = None,
) -> Mixed:
    """``model`` in 8 bits, and in 16 as few products as reach ``goal``; the other arguments as `ptq.calibrate`'s.

    Raises UnsupportedError where all activations in 16 bits do not reach it, and what `ptq.calibrate` raises.
    """
    tell = report or silent
    starts = [
        calibrate(
            model, samples, activations=kind, calibrator=calibrator, seed=seed, report=_within(tell, index * 0.3, 0.3)
        )
        for index, kind in enumerate(_KINDS)
    ]
    work = [
        _Search(start, samples, goal, seed, _within(tell, 0.6 + index * 0.2, 0.2)) for index, start in enumerate(starts)
    ]
    narrow, widest = work[0].narrow_score, max(one.widest_score for one in work)
    least = widest - goal.within if goal.least is None else goal.least
    able = [one for one in work if max(one.narrow_score, one.widest_score) >= least]
    if not able:
        raise UnsupportedError(
            f"{model.path}: all activations in 16 bits reach {widest:.4g}, and {least:.4g} is asked for",
            hint=f"ask for less: 8 bits reach {narrow:.4g}",
        )
    found = min((one.run(least) for one in able), key=lambda one: (one.macs_raised, len(one.raised), -one.score))
    return replace(found, narrow=narrow, widest=widest, starts=tuple(starts))


def _within(report: Report, start: float, width: float) -> Report:
    """``report`` of a step that is ``width`` of all."""
    return lambda what, part: report(what, start + width * part)


class _Search:
    def __init__(
        self, calibrated: Calibrated, samples: Sequence[Sample], goal: Goal, seed: int, report: Report
    ) -> None:
        self.calibrated, self.model, self.metric = calibrated, calibrated.model, goal.metric
        self.seed, self.report = seed, report
        self.fed, self.kept = parted(samples)
        self.names = tuple(calibrated.seen)
        self.products = products(self.model, self.kept[0])
        self.total = sum(one.macs for one in self.products)
        self.judge = Judge.of(self.model, judged(self.model), self.kept)
        self.hearing = Judge.of(self.model, self.judge.names, noise.enough(samples, self.judge.reference[0]))
        self.whole = self._whole(samples)
        self.outputs = list(self._run(Session(self.model.proto))) if self.metric else []
        self.narrow = replace(calibrated.integers, activations="int8")
        self.wide = self._wide()
        self.narrow_score = self._score(self.narrow)
        self.widest_score = self._score(self.wide)

    def run(self, least: float) -> Mixed:
        found, losses = self.narrow, dict.fromkeys(self.names, 0.0)
        if self.narrow_score < least:
            found, losses = self._found(least)
        raised = (Raised(name, self._macs({name}), losses[name]) for name in found.wide)
        return Mixed(
            calibrated=replace(
                self.calibrated,
                integers=found,
                sqnr=self._sqnr(found),
                layers=tuple(layers(self.model, found, self.kept)),
            ),
            starts=(),
            raised=tuple(sorted(raised, key=lambda one: (-one.loss, one.name))),
            macs_raised=self._macs(found.wide),
            macs=self.total,
            narrow=self.narrow_score,
            widest=self.widest_score,
            goal=least,
            score=self._score(found),
        )

    def _whole(self, samples: Sequence[Sample]) -> dict[str, Range]:
        """All that activations were, on samples kept aside, too: what is cut off is what costs most on other inputs."""
        session, seen = Session(self.model.proto, self.names), {name: Seen() for name in self.names}
        for sample in samples:
            for name, values in zip(self.names, session.run(sample, self.names), strict=True):
                seen[name].widen(values)
        return {name: one.whole for name, one in seen.items()}

    def _wide(self) -> Integers:
        """All in 16 bits: ranges that cut off nothing, not even of other inputs, and the biases that leave most."""
        ranges = {name: one.widened(HEADROOM) for name, one in self.whole.items()}
        given = replace(self.narrow, ranges=ranges, wide=frozenset(self.names))
        plain = replace(given, biases=biases_of(self.model))
        moved = replace(plain, biases=bias.corrected(self.model, plain, self.fed[:_FOR_BIASES], self.seed))
        return max((given, plain, moved), key=self._sqnr)

    def _found(self, least: float) -> tuple[Integers, dict[str, float]]:
        """The mix, and what 8 bits in each activation cost in dB."""
        choices = {name: [by(seen) for by in CALIBRATORS.values()] for name, seen in self.calibrated.seen.items()}
        alone = noise.alone(self.model, self.hearing, self.whole, choices, _within(self.report, 0, 0.8))
        base = self.judge.noise(Session(quantized(self.model, self.wide), self.judge.names))
        # of each output over what 16 bits leave there: outputs count alike, as in their mean SQNR
        parts = {name: float((one.parts / np.maximum(base, 1e-30)).mean()) for name, one in alone.items()}
        worth = {name: self._macs({name}) + _BYTES * self.total for name in self.names}

        def mix(budget: float) -> Integers:
            wide = frozenset(self.names) - dearest(parts, worth, budget)
            ranges = {name: self.wide.ranges[name] if name in wide else alone[name].range for name in self.names}
            return replace(self.wide, ranges=ranges, wide=wide)

        everything = sum(parts.values())
        most = everything if self.metric else min(10 ** ((self.widest_score - least) / 10) - 1, everything)
        losses = {name: float(10 * np.log10(1 + part)) for name, part in parts.items()}
        return self._largest(mix, most, least), losses

    def _largest(self, mix: Callable[[float], Integers], most: float, least: float) -> Integers:
        """The mix of the largest budget up to ``most`` that reaches ``least``."""
        for index, budget in enumerate(most * _STEP ** np.arange(_BUDGETS)):
            self.report("trying mixes", 0.8 + 0.2 * index / _BUDGETS)
            if self._score(found := mix(float(budget))) >= least:
                return found
        return self.wide

    def _sqnr(self, integers: Integers) -> float:
        parts = self.judge.noise(Session(quantized(self.model, integers), self.judge.names))
        return float(-10 * np.log10(np.maximum(parts, 1e-30)).mean())

    def _score(self, integers: Integers) -> float:
        if self.metric is None:
            return self._sqnr(integers)
        return float(self.metric(self.outputs, list(self._run(Session(quantized(self.model, integers))))))

    def _run(self, session: Session) -> Iterator[Outputs]:
        names = self.model.outputs
        for sample in self.kept:
            yield dict(zip(names, session.run(sample, names), strict=True))

    def _macs(self, wide: frozenset[str] | set[str]) -> int:
        return sum(one.macs for one in self.products if _reads(one, wide))


def _reads(product: Product, names: frozenset[str] | set[str]) -> bool:
    return not names.isdisjoint(product.operands)
