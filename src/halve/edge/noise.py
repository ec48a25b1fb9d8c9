"""What 8 bits in one activation alone add to the outputs: noises of activations add up, nearly, and one costs little.

Nothing else is rounded meanwhile. A sum is a better estimate of what a mix does on other inputs than the mix itself on
few samples, whose errors cancel or add up by chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halve.edge.affine import Range
from halve.edge.model import FloatModel
from halve.edge.ptq import Report, adjusted
from halve.edge.qdq import Integers, quantized
from halve.edge.running import Sample, Session, energies_of

_NUMBERS = 50_000  # of the outputs that are looked at, where there are as many
_LEAST = 12  # samples that are looked at, where there are as many
_LOUD = 0.002  # of all noise: quieter activations keep their range
_CLEARLY = 0.8  # of the noise: what is less only by a little may be so by chance, on these samples


@dataclass(frozen=True, slots=True)
class Noise:
    """Of an activation in 8 bits over ``range``: the energy of the error over that of the output, for each output."""

    range: Range
    parts: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """Samples with what the float model makes of them: ``names`` are the activations that are compared."""

    names: Sequence[str]
    samples: Sequence[Sample]
    reference: Sequence[Sequence[NDArray[np.float32]]]

    @classmethod
    def of(cls, model: FloatModel, names: Sequence[str], samples: Sequence[Sample]) -> "Judge":
        """All of ``samples``."""
        exact = Session(model.proto, names)
        return cls(names, samples, [exact.run(sample, names) for sample in samples])

    @property
    def precise(self) -> bool:
        """Whether there are numbers enough to tell ranges apart: of a few, the best is so by chance."""
        return sum(array.size for one in self.reference for array in one) >= _NUMBERS

    def noise(self, session: Session, fed: Mapping[str, NDArray[np.generic]] | None = None) -> NDArray[np.float64]:
        """The energy of the error of ``session`` over that of each output."""
        found = (session.run({**sample, **(fed or {})}, self.names) for sample in self.samples)
        both = sum(energies_of(one, other) for one, other in zip(self.reference, found, strict=True))
        signal, error = np.maximum(np.asarray(both).T, np.finfo(np.float64).tiny)
        parts: NDArray[np.float64] = error / signal
        return parts


def enough(samples: Sequence[Sample], outputs: Sequence[NDArray[np.float32]]) -> list[Sample]:
    """Some of ``samples``, evenly: 12, or as many as have 50,000 numbers in outputs of the size of ``outputs``."""
    count = max(_LEAST, -(-_NUMBERS // max(sum(array.size for array in outputs), 1)))
    return [samples[at] for at in np.linspace(0, len(samples) - 1, min(count, len(samples))).astype(int)]


def alone(
    model: FloatModel,
    judge: Judge,
    ranges: Mapping[str, Range],
    choices: Mapping[str, Sequence[Range]],
    report: Report,
) -> dict[str, Noise]:
    """The noise of each activation in ``ranges``; in another of its ``choices`` where ``judge`` hears clearly less."""
    found: dict[str, Noise] = {}
    for index, (name, given) in enumerate(ranges.items()):
        report(f"8 bits in {name}", 0.5 * index / len(ranges))
        (found[name],) = _noises(model, judge, name, [given])
    total = np.maximum(np.sum([one.parts for one in found.values()], axis=0), np.finfo(np.float64).tiny)

    def loudness(one: Noise) -> float:
        return float((one.parts / total).mean())

    loud = [name for name, one in found.items() if judge.precise and loudness(one) > _LOUD]
    for index, name in enumerate(loud):
        report(f"ranges of {name}", 0.5 + 0.5 * index / len(loud))
        others = [one for one in dict.fromkeys(choices[name]) if one != ranges[name]]
        best = min((found[name], *_noises(model, judge, name, others)), key=loudness)
        if loudness(best) < _CLEARLY * loudness(found[name]):
            found[name] = best
    return found


def _noises(model: FloatModel, judge: Judge, name: str, ranges: Sequence[Range]) -> list[Noise]:
    if not ranges:
        return []
    session = Session(quantized(model, Integers({name: ranges[0]}, {}), adjustable=True), judge.names)
    return [Noise(one, judge.noise(session, adjusted(Integers({name: one}, {})))) for one in ranges]
