"""INT8 from FP32 without training: every choice is made by what it leaves of the outputs on samples kept aside.

The model is equalized, its weights are rounded with feedback, its activations get ranges, its biases are corrected:
each step is tried and kept only where the SQNR of the outputs gains. Outputs behind a last Softmax or Sigmoid are
judged before it: behind it, a few samples near a decision would decide everything.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halve.edge import bias
from halve.edge.affine import TYPES, Activations, Floats, Range
from halve.edge.calibrators import CALIBRATORS, Seen
from halve.edge.equalize import columns, equalizable, equalized, factors
from halve.edge.learned import learned
from halve.edge.model import FloatModel
from halve.edge.moments import Moments, Operand
from halve.edge.qdq import Codes, Integers, nearest, quantized, scale, zero
from halve.edge.running import Sample, Session, compared, decibels, energies_of
from halve.edge.stored import stored
from halve.errors import UnknownNameError, UnsupportedError

AUTO = "auto"
STRENGTHS = (0.0, 0.5, 0.75)  # of equalization; 0: none
_FOR_MOMENTS = 16  # samples
_REFINED = 24  # activations whose ranges are chosen one by one
_WORTH = 0.05  # dB that a range of its own must gain
_LEAST = 8  # samples
HEADROOM = 2.0  # of ranges in 16 bits, which have steps to spare: other inputs go further than calibration inputs

_RESHAPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity")

Report = Callable[[str, float], object]


@dataclass(frozen=True, slots=True)
class Trial:
    """One combination and the SQNR of the outputs, in dB, on the samples kept aside."""

    equalization: float
    weights: str
    calibrator: str
    sqnr: float


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """A model and how it is stored, with all that was tried; ``sqnr`` is on the samples kept aside, in dB."""

    model: FloatModel
    integers: Integers
    trials: tuple[Trial, ...]
    chosen: Trial
    refined: tuple[str, ...]  # activations with ranges of their own
    biases_corrected: bool
    sqnr: float
    layers: tuple[tuple[str, str, float], ...]  # of each product: name, operator, SQNR of its output in dB
    seen: Mapping[str, Seen]  # of each activation, the values that it had

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "source": str(self.model.path),
            "source_sha256": self.model.source,
            "activations": "mixed" if self.integers.wide else self.integers.activations,
            "sqnr_db": self.sqnr,
            "calibrator": self.chosen.calibrator,
            "weights": self.chosen.weights,
            "equalization": self.chosen.equalization,
            "own_ranges": list(self.refined),
            "biases_corrected": self.biases_corrected,
            "trials": [
                {"equalization": t.equalization, "weights": t.weights, "calibrator": t.calibrator, "sqnr_db": t.sqnr}
                for t in self.trials
            ],
            "layers": [{"name": n, "operator": o, "sqnr_db": db} for n, o, db in self.layers],
        }


def calibrate(
    model: FloatModel,
    samples: Sequence[Sample],
    *,
    activations: Activations = "int8",
    calibrator: str = AUTO,
    seed: int = 0,
    report: Report | None = None,
) -> Calibrated:
    """Integers for ``model``, from ``samples`` of its inputs; every third is kept aside to judge by.

    ``report`` is called with what goes on, and what part is done.

    Raises UnsupportedError for fewer than 8 samples, for samples that the model does not take and for a model with
    nothing to quantize, UnknownNameError for a calibrator that does not exist.
    """
    if calibrator != AUTO and calibrator not in CALIBRATORS:
        raise UnknownNameError("calibrator", calibrator, [AUTO, *CALIBRATORS])
    if len(samples) < _LEAST:
        raise UnsupportedError(
            f"{len(samples)} calibration samples are too few to choose by and to judge by",
            hint=f"give {_LEAST} or more; 50 to 100 are usual",
        )
    if not any(model.weight_of(node) for node in model.nodes):
        raise UnsupportedError(f"{model.path}: it has no Conv, Gemm or MatMul with weights", hint="nothing to quantize")
    work = _Search(model, samples, activations, seed, report or silent)
    return work.run((calibrator,) if calibrator != AUTO else tuple(CALIBRATORS))


def judged(model: FloatModel) -> tuple[str, ...]:
    """The outputs; what goes into a last Softmax or Sigmoid instead of what comes out of it."""
    return tuple(dict.fromkeys(_before(model, name) for name in model.outputs))


def _before(model: FloatModel, output: str) -> str:
    name = output
    while (node := model.producers.get(name)) is not None and node.op_type in _RESHAPING:
        name = node.input[0]
    if node is None or node.op_type not in ("Softmax", "Sigmoid", "LogSoftmax"):
        return output
    return _before(model, node.input[0])


def parted(samples: Sequence[Sample]) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """The samples to choose from, and every third, kept aside to judge by."""
    return [one for i, one in enumerate(samples) if i % 3 != 2], samples[2::3]


def silent(what: str, part: float) -> None:
    """Report nothing."""
    del what, part


@dataclass(slots=True, eq=False)
class _Variant:
    """One equalization of the model, with all that was seen of it."""

    model: FloatModel
    seen: Mapping[str, Seen]
    weights: Mapping[str, Mapping[str, Codes]]  # by what they are rounded by


class _Search:
    def __init__(
        self, model: FloatModel, samples: Sequence[Sample], activations: Activations, seed: int, report: Report
    ) -> None:
        self.model, self.activations, self.seed, self.report = model, activations, seed, report
        self.kept = [one for i, one in enumerate(samples) if i % 3 == 2]
        self.fed = [one for i, one in enumerate(samples) if i % 3 != 2]
        self.names = stored(model)
        self.judged = judged(model)
        exact = Session(model.proto, self.judged)
        self.reference = [exact.run(sample, self.judged) for sample in self.kept]

    def run(self, calibrators: Sequence[str]) -> Calibrated:
        trials: list[tuple[Trial, _Variant, Integers]] = []
        strengths = STRENGTHS if equalizable(self.model, self.names) else STRENGTHS[:1]
        steps = len(strengths) * (1 + 2 * len(calibrators))
        done = 0
        for strength in strengths:
            self.report("looking at activations", done / steps * 0.7)
            variant = self._variant(strength)
            done += 1
            for by in calibrators:
                ranges = {name: self._range(by, seen) for name, seen in variant.seen.items()}
                for how, weights in variant.weights.items():
                    self.report(f"trying {by}, weights {how}", done / steps * 0.7)
                    integers = Integers(ranges, weights, biases_of(variant.model), activations=self.activations)
                    trials.append((Trial(strength, how, by, self._score(variant.model, integers)), variant, integers))
                    done += 1
        chosen, variant, integers = max(trials, key=lambda one: one[0].sqnr)
        integers, refined, sqnr = self._refined(variant, integers, chosen.sqnr)
        self.report("correcting biases", 0.95)
        moved = replace(integers, biases=bias.corrected(variant.model, integers, self.fed[:_FOR_MOMENTS], self.seed))
        corrected = (found := self._score(variant.model, moved)) > sqnr
        if corrected:
            integers, sqnr = moved, found
        return Calibrated(
            model=variant.model,
            integers=integers,
            trials=tuple(trial for trial, _, _ in trials),
            chosen=chosen,
            refined=refined,
            biases_corrected=corrected,
            sqnr=sqnr,
            layers=tuple(layers(variant.model, integers, self.kept)),
            seen=variant.seen,
        )

    def _range(self, by: str, seen: Seen) -> Range:
        return CALIBRATORS[by](seen).widened(HEADROOM if self.activations == "int16" else 1.0)

    def _score(self, model: FloatModel, integers: Integers) -> float:
        session = Session(quantized(model, integers), self.judged)
        return compared(self.reference, (session.run(sample, self.judged) for sample in self.kept))

    def _variant(self, strength: float) -> _Variant:
        model = self.model if not strength else self._equalized(strength)
        session = Session(model.proto, self.names)
        seen = {name: Seen() for name in self.names}
        for sample in self.fed:
            for name, array in zip(self.names, session.run(sample, self.names), strict=True):
                seen[name].widen(array)
        nodes = [node for node in model.nodes if model.weight_of(node)]
        moments = {node.name: Moments(Operand(model, node), self.seed) for node in nodes}
        for index, sample in enumerate(self.fed):
            values = dict(zip(self.names, session.run(sample, self.names), strict=True))
            for name, array in values.items():
                seen[name].count(array)
            for node in nodes if index < _FOR_MOMENTS else ():
                if node.input[0] in values:
                    moments[node.name].add(values[node.input[0]])
        plain = {node.input[1]: nearest(model, node) for node in nodes}
        fed_back = {node.input[1]: learned(model, node, moments[node.name]) or plain[node.input[1]] for node in nodes}
        return _Variant(model, seen, {"nearest": plain, "gptq": fed_back})

    def _equalized(self, strength: float) -> FloatModel:
        names = equalizable(self.model, self.names)
        taps = tuple(names)
        session = Session(self.model.proto, taps)
        low: dict[str, Floats] = {}
        high: dict[str, Floats] = {}
        for sample in self.fed:
            for name, values in zip(taps, session.run(sample, taps), strict=True):
                axes = tuple(i for i in range(values.ndim) if i != 1)
                low[name] = np.minimum(low.get(name, np.inf), values.min(axis=axes))
                high[name] = np.maximum(high.get(name, -np.inf), values.max(axis=axes))
        divided = {
            name: factors(low[name], high[name], columns(self.model, name), 1.0 if free else strength)
            for name, free in names.items()
        }
        return equalized(self.model, divided)

    def _refined(self, variant: _Variant, integers: Integers, sqnr: float) -> tuple[Integers, tuple[str, ...], float]:
        """Other ranges for those activations where calibrators disagree most, where that gains."""
        choices = {
            name: [
                one
                for one in dict.fromkeys(self._range(by, seen) for by in CALIBRATORS)
                if one != integers.ranges[name]
            ]
            for name, seen in variant.seen.items()
        }
        order = sorted(choices, key=lambda name: -_spread([*choices[name], integers.ranges[name]]))[:_REFINED]
        half = len(self.kept) // 2
        session = Session(quantized(variant.model, integers, adjustable=True), self.judged)
        ranges = dict(integers.ranges)

        def score(tried: Mapping[str, Range], part: slice) -> float:
            fed = adjusted(replace(integers, ranges=tried))
            found = (session.run({**sample, **fed}, self.judged) for sample in self.kept[part])
            return compared(self.reference[part], found)

        first, second = slice(None, half), slice(half, None)
        best = score(ranges, first)
        for index, name in enumerate(order):
            self.report(f"ranges of {name}", 0.7 + 0.25 * index / len(order))
            for choice in choices[name]:
                found = score({**ranges, name: choice}, first)
                if found > best + _WORTH:
                    best, ranges[name] = found, choice
        changed = tuple(name for name in order if ranges[name] != integers.ranges[name])
        if not changed or score(ranges, second) <= score(integers.ranges, second):
            return integers, (), sqnr
        better = replace(integers, ranges=ranges)
        after = self._score(variant.model, better)
        return (better, changed, after) if after > sqnr else (integers, (), sqnr)


def layers(model: FloatModel, integers: Integers, samples: Sequence[Sample]) -> Iterator[tuple[str, str, float]]:
    """Of each product with weights: name, operator, SQNR of its output in dB behind all that is rounded before it."""
    nodes = [node for node in model.nodes if model.weight_of(node)]
    taps = [node.output[0] for node in nodes]
    exact, rounded = Session(model.proto, taps), Session(quantized(model, integers, adjustable=True), taps)
    energies = np.zeros((len(taps), 2))
    for sample in samples[:_LEAST]:
        energies += energies_of(exact.run(sample, taps), rounded.run(sample, taps))
    for node, found in zip(nodes, decibels(energies), strict=True):
        yield node.name, node.op_type, float(found)


def biases_of(model: FloatModel) -> dict[str, Floats]:
    """The constant biases of products."""
    found = {}
    for node in model.nodes:
        if model.weight_of(node) and len(node.input) > 2 and node.input[2] in model.constants:
            found[node.input[2]] = model.constants[node.input[2]].astype(np.float32)
    return found


def _spread(ranges: Sequence[Range]) -> float:
    widths = [one.high - one.low for one in ranges]
    return max(widths) / max(min(widths), 1e-30)


def adjusted(integers: Integers) -> dict[str, NDArray[np.generic]]:
    """What an adjustable session of `halve.edge.qdq.quantized` is fed with for the ranges of ``integers``."""
    found: dict[str, NDArray[np.generic]] = {}
    for name in integers.ranges:
        step, offset = integers.affine(name)
        found[scale(name)] = np.asarray(step, np.float32)
        found[zero(name)] = np.asarray(offset, TYPES[integers.kind(name)])
    return found
