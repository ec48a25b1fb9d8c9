"""16 bits for as few activations as it takes: where 8 bits cost the outputs most for each multiplication.

The model is calibrated for 8 bits and for 16, which choose weights and ranges differently; the search starts from both.

All activations in 16 bits leave what rounded weights leave. From there each activation is lowered to 8 bits alone; the
noise that this adds, over the multiplications that 16 bits make dearer, is the order in which activations are raised.
They are raised until the goal is reached; then, the dearest first, each is lowered again where the goal holds without
it, or with cheaper ones in its place. Whether it holds is measured each time, on the samples kept aside, and on others
too where their outputs are few numbers, whose errors cancel by chance.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halve.edge import bias
from halve.edge.affine import Activations, Range
from halve.edge.calibrators import Seen
from halve.edge.macs import Product, products
from halve.edge.model import FloatModel
from halve.edge.ptq import AUTO, Calibrated, Report, biases_of, calibrate, judged, layers, parted, silent
from halve.edge.qdq import Integers, quantized
from halve.edge.running import Sample, Session, compared
from halve.edge.stored import stored
from halve.errors import UnsupportedError

Outputs = Mapping[str, NDArray[np.generic]]
Metric = Callable[[Sequence[Outputs], Sequence[Outputs]], float]
_KINDS: tuple[Activations, ...] = ("int8", "int16")
WITHIN = 3.0  # dB below all activations in 16 bits
_NUMBERS = 50_000  # of the outputs: where samples kept aside have fewer, others join them
_FOR_BIASES = 16  # samples
_LOWERED = 24  # raised activations that are tried in 8 bits again


@dataclass(frozen=True, slots=True)
class Goal:
    """What the outputs must reach: ``least`` of SQNR in dB, or of ``metric``.

    Without ``least``: what all activations in 16 bits leave, less 3 dB. A metric is called with the outputs of the
    float model and of the integer one, a mapping from name to array for each sample; more is better.
    """

    least: float | None = None
    metric: Metric | None = None


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
    least = widest - WITHIN if goal.least is None else goal.least
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
        self.names = stored(self.model)
        self.products = products(self.model, self.kept[0])
        self.judged = judged(self.model)
        exact = Session(self.model.proto, self.judged)
        self.samples = list(self.kept)
        self.reference = [exact.run(sample, self.judged) for sample in self.kept]
        for sample in self.fed:
            if sum(array.size for one in self.reference for array in one) >= _NUMBERS:
                break
            self.samples.append(sample)
            self.reference.append(exact.run(sample, self.judged))
        names = self.model.outputs
        self.outputs = [dict(zip(names, exact.run(sample, names), strict=True)) for sample in self.samples]
        self.narrow = replace(calibrated.integers, activations="int8")
        self.wide = self._wide()
        self.narrow_score = self._score(self.narrow)
        self.widest_score = self._score(self._mix(frozenset(self.names)))

    def run(self, least: float) -> Mixed:
        losses = self._losses() if self.narrow_score < least else {}
        chosen = self._chosen(losses, least) if losses else frozenset()
        found = self._mix(chosen) if chosen else self.narrow
        raised = sorted((Raised(name, self._macs({name}), losses[name]) for name in chosen), key=lambda one: -one.loss)
        sqnr = self._sqnr(found)
        return Mixed(
            calibrated=replace(
                self.calibrated, integers=found, sqnr=sqnr, layers=tuple(layers(self.model, found, self.kept))
            ),
            starts=(),
            raised=tuple(raised),
            macs_raised=self._macs(chosen),
            macs=sum(one.macs for one in self.products),
            narrow=self.narrow_score,
            widest=self.widest_score,
            goal=least,
            score=self._score(found),
        )

    def _wide(self) -> Integers:
        """All in 16 bits: with ranges that cut off nothing, and with biases for it, where that leaves more."""
        kept = replace(self.narrow, wide=frozenset(self.names))
        whole = replace(kept, ranges=self._whole())
        plain = [replace(one, biases=biases_of(self.model)) for one in (kept, whole)]
        moved = [
            replace(one, biases=bias.corrected(self.model, one, self.fed[:_FOR_BIASES], self.seed)) for one in plain
        ]
        return max((kept, whole, *plain, *moved), key=self._sqnr)

    def _whole(self) -> dict[str, Range]:
        """All that activations were: 16 bits have steps to spare, and nothing need be cut off."""
        session, seen = Session(self.model.proto, self.names), {name: Seen() for name in self.names}
        for sample in self.fed:
            for name, values in zip(self.names, session.run(sample, self.names), strict=True):
                seen[name].widen(values)
        return {name: one.whole for name, one in seen.items()}

    def _mix(self, wide: frozenset[str]) -> Integers:
        ranges = {name: (self.wide if name in wide else self.narrow).ranges[name] for name in self.names}
        return replace(self.wide, ranges=ranges, wide=wide)

    def _sqnr(self, integers: Integers) -> float:
        session = Session(quantized(self.model, integers), self.judged)
        return compared(self.reference, (session.run(sample, self.judged) for sample in self.samples))

    def _score(self, integers: Integers) -> float:
        if self.metric is None:
            return self._sqnr(integers)
        session, names = Session(quantized(self.model, integers)), self.model.outputs
        found = [dict(zip(names, session.run(sample, names), strict=True)) for sample in self.samples]
        return float(self.metric(self.outputs, found))

    def _losses(self) -> dict[str, float]:
        """Of each activation what its 8 bits take from the outputs when all others have 16, in dB."""
        everything = frozenset(self.names)
        best = self._sqnr(self._mix(everything))
        found = {}
        for index, name in enumerate(self.names):
            self.report(f"8 bits in {name}", 0.5 * index / len(self.names))
            found[name] = best - self._sqnr(self._mix(everything - {name}))
        return found

    def _chosen(self, losses: Mapping[str, float], least: float) -> frozenset[str]:
        total = sum(one.macs for one in self.products)

        def worth(name: str) -> float:
            noise = 10 ** (losses[name] / 10) - 1
            return noise / (self._macs({name}) + total * 1e-4)  # an activation without products costs its bytes

        def reaches(wide: frozenset[str]) -> bool:
            return self._score(self._mix(wide)) >= least

        order = sorted(losses, key=worth, reverse=True)
        wide: frozenset[str] = frozenset()
        for index, name in enumerate(order):  # one by one: errors cancel, so that more is not always better
            self.report(f"16 bits in {name}", 0.5 + 0.3 * index / len(order))
            wide |= {name}
            if reaches(wide):
                break
        dearest = sorted(wide, key=lambda name: (-self._macs({name}), losses[name]))[:_LOWERED]
        for index, name in enumerate(dearest):
            self.report(f"8 bits in {name} again", 0.8 + 0.2 * index / len(dearest))
            spared = wide - {name}
            traded = spared | self._cheaper([one for one in order if one not in wide], self._macs({name}) / 2)
            found = next((one for one in dict.fromkeys((spared, traded)) if reaches(one)), wide)
            if self._macs(found) <= self._macs(wide):
                wide = found
        return wide

    def _cheaper(self, names: Sequence[str], macs: float) -> frozenset[str]:
        """The first of ``names`` that together have no more than ``macs``."""
        found: frozenset[str] = frozenset()
        for name in names:
            if self._macs(found | {name}) > macs:
                break
            found |= {name}
        return found

    def _macs(self, wide: frozenset[str] | set[str]) -> int:
        return sum(one.macs for one in self.products if _reads(one, wide))


def _reads(product: Product, names: frozenset[str] | set[str]) -> bool:
    return not names.isdisjoint(product.operands)
