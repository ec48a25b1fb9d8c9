"""Choosing between candidates by what they lose on text that none of them has seen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from halve.checkpoint.base import Checkpoint
from halve.checkpoint.place import Place
from halve.evaluate import builtin
from halve.evaluate.evaluator import Evaluator

WINDOWS = 4  # of each kind of text
MARGIN = 1.05  # a kind of text on which KL divergence grows by more is clearly worse

Progress = Callable[[str, int, int], object]


@dataclass(frozen=True, slots=True)
class Pick:
    """The candidate that was picked, and the KL divergence of each from the source, nats a token, by kind of text."""

    name: str
    kld: Mapping[str, Mapping[str, float]]

    @property
    def why(self) -> str:
        """In a line."""
        told = ", ".join(f"{name} {_mean(kinds):.4f}" for name, kinds in self.kld.items())
        kinds = ", ".join(next(iter(self.kld.values())))
        return f"{self.name}: mean KL divergence on held-out text ({kinds}) {told}"

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {"picked": self.name, "kld": {name: dict(kinds) for name, kinds in self.kld.items()}}


def pick(source: str | Place | Checkpoint, candidates: Mapping[str, Place], *, activations: bool) -> Pick:
    """The candidate whose KL divergence from ``source`` is least on halve's own held-out texts.

    ``candidates`` are checkpoints by name, the safest first: another is picked only where it is better on average and
    on no kind of text clearly worse. ``activations`` feeds them as their target would.

    Raises UnsupportedError for an architecture that halve does not run.
    """
    path = source if isinstance(source, str | Place) else source.path
    kld: dict[str, dict[str, float]] = {}
    with Evaluator(path, texts=builtin.builtin("pick"), windows=WINDOWS) as evaluator:
        for name, folder in candidates.items():
            loss = evaluator.evaluate(folder, activations=activations).losses[-1]
            kinds: dict[str, list[float]] = {}
            for passage in loss.passages:
                kinds.setdefault(passage.text.partition(":")[0], []).append(passage.kld or 0.0)
            kld[name] = {kind: sum(values) / len(values) for kind, values in kinds.items()}
    best = next(iter(kld))
    for name, kinds_of in kld.items():
        if _mean(kinds_of) < _mean(kld[best]) and all(x <= MARGIN * kld[best][kind] for kind, x in kinds_of.items()):
            best = name
    return Pick(best, kld)


def _mean(kinds: Mapping[str, float]) -> float:
    return sum(kinds.values()) / len(kinds)
