"""What 8 bits in one activation alone add to the outputs: noises of activations add up, nearly, and one costs little.

Nothing else is rounded meanwhile. On PP-OCRv4 the sum of all is within 2 dB of what all together do, which is enough
to order them by, not to promise anything by (`docs/edge.md`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halve.edge.affine import Range
from halve.edge.calibrators import CALIBRATORS, Seen
from halve.edge.model import FloatModel
from halve.edge.ptq import HEADROOM, Report, adjusted
from halve.edge.qdq import Integers, quantized
from halve.edge.running import Sample, Session, energies_of

_NUMBERS = 50_000  # of the outputs that are looked at, where there are as many
_LEAST = 12  # samples that are looked at, where there are as many
_LOUD = 0.002  # of all noise


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

    def noise(self, session: Session, fed: Mapping[str, NDArray[np.generic]] | None = None) -> NDArray[np.float64]:
        """The energy of the error of ``session`` over that of each output."""
        found = (session.run({**sample, **(fed or {})}, self.names) for sample in self.samples)
        both = sum(energies_of(one, other) for one, other in zip(self.reference, found, strict=True))
        signal, error = np.maximum(np.asarray(both).T, np.finfo(np.float64).tiny)
        parts: NDArray[np.float64] = error / signal
        return parts


def enough(judge: Judge) -> Judge:
    """The first samples of ``judge``: 12, or as many as have 50,000 numbers in their outputs."""
    numbers = np.cumsum([sum(array.size for array in one) for one in judge.reference])
    count = max(int(np.searchsorted(numbers, _NUMBERS)) + 1, _LEAST)
    return Judge(judge.names, judge.samples[:count], judge.reference[:count])


def alone(
    model: FloatModel, judge: Judge, ranges: Mapping[str, Range], seen: Mapping[str, Seen], report: Report
) -> dict[str, Noise]:
    """The noise of each activation in ``ranges``, with the range for it that makes least.

    ``judge`` has other samples than ``seen``: those do not go beyond their own ranges. An activation that is quiet even
    in a range of twice what was seen takes that: other inputs go further.
    """
    found: dict[str, Noise] = {}
    for index, (name, given) in enumerate(ranges.items()):
        report(f"8 bits in {name}", 0.5 * index / len(ranges))
        found[name] = next(_noises(model, judge, name, [given]))
    total = np.sum([one.parts for one in found.values()], axis=0)
    for index, name in enumerate(ranges):
        report(f"ranges of {name}", 0.5 + 0.5 * index / len(ranges))
        loud = (found[name].parts > _LOUD * total).any()
        others = [by(seen[name]) for by in CALIBRATORS.values()] if loud else []
        wider, *tried = _noises(model, judge, name, [seen[name].whole.widened(HEADROOM), *others])
        if (wider.parts <= _LOUD * total).all():
            found[name] = wider
        else:
            found[name] = min((found[name], *tried, wider), key=lambda one: float((one.parts / total).sum()))
    return found


def _noises(model: FloatModel, judge: Judge, name: str, ranges: Sequence[Range]) -> Iterator[Noise]:
    session = Session(quantized(model, Integers({name: ranges[0]}, {}), adjustable=True), judge.names)
    for one in ranges:
        yield Noise(one, judge.noise(session, adjusted(Integers({name: one}, {}))))
