"""What becomes of a model on an NPU: where each layer runs, what it costs, and how fast the whole is."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from halve.edge.capability import Placement
from halve.edge.layers import Dtype, Layer
from halve.edge.targets import Target

_SLOWEST = 10  # layers that are shown of those on the NPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A layer where it runs. ``cycles`` are of the NPU's clock, ``nbytes`` to and from memory, both estimates."""

    layer: Layer
    placement: Placement
    seconds: float
    cycles: int
    nbytes: int

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "name": self.layer.name,
            "op": self.layer.op,
            "fused": list(self.layer.fused),
            "output": list(self.layer.output),
            "unit": self.placement.unit,
            "dtype": self.placement.dtype,
            "reason": self.placement.reason,
            "macs": self.layer.macs,
            "cycles": self.cycles,
            "bytes": self.nbytes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A model on ``target``, one core, in ``dtype`` where its layers say nothing else.

    ``fps`` is estimated; of models that the fit had not seen 80 % lay within ``fps_interval``. Memory in bytes: of the
    weights, and of activations that live at once.
    """

    model: str
    target: Target
    dtype: Dtype
    quantized: bool
    steps: tuple[Step, ...]
    fps: float
    fps_interval: tuple[float, float]
    weight_bytes: int
    activation_bytes: int

    columns: ClassVar[tuple[str, ...]] = ("layer", "operator", "output", "runs on", "Mcycles", "MB", "why")

    @property
    def runs(self) -> bool:
        """Whether the toolkit takes every layer."""
        return all(step.placement.unit != "none" for step in self.steps)

    @property
    def units(self) -> dict[str, int]:
        """How many layers run where."""
        return dict(Counter(step.placement.text for step in self.steps))

    @property
    def cpu_share(self) -> float:
        """The part of the time that the CPU takes."""
        whole = sum(step.seconds for step in self.steps)
        return sum(step.seconds for step in self.steps if step.placement.unit != "NPU") / whole if whole else 0.0

    @property
    def fallbacks(self) -> tuple[Step, ...]:
        """What does not run on the NPU, the slowest first."""
        found = [step for step in self.steps if step.placement.unit != "NPU"]
        return tuple(sorted(found, key=lambda step: -step.seconds))

    @property
    def summary(self) -> str:
        """One line: speed, layers by where they run, memory."""
        low, high = self.fps_interval
        places = ", ".join(f"{count} {text}" for text, count in sorted(self.units.items(), key=lambda one: -one[1]))
        speed = f"{self.fps:.3g} fps ({low:.3g} to {high:.3g})" if self.runs else "the toolkit refuses it"
        megabytes = f"{self.weight_bytes / 1e6:.3g} MB of weights, {self.activation_bytes / 1e6:.3g} MB of activations"
        return f"{self.model} on one core of {self.target.name}: {speed}; layers: {places}; {megabytes}"

    @property
    def note(self) -> str:
        """How far to trust it."""
        shown = f"The CPU takes {self.cpu_share:.0%} of the time. " if self.fallbacks else ""
        return f"{shown}Estimates, not measurements: of models that the fit had not seen 80 % lay within the interval."

    def rows(self) -> Iterator[tuple[str | int | float | None, ...]]:
        """A line a layer."""
        return map(_row, self.steps)

    def notable(self) -> Iterator[tuple[str | int | float | None, ...]]:
        """Lines of what leaves the NPU, and of the slowest on it."""
        slowest = sorted((s for s in self.steps if s.placement.unit == "NPU"), key=lambda step: -step.seconds)
        return map(_row, (*self.fallbacks, *slowest[:_SLOWEST]))

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "model": self.model,
            "target": self.target.name,
            "cores": 1,
            "dtype": self.dtype,
            "quantized": self.quantized,
            "runs": self.runs,
            "units": self.units,
            "cpu_share": round(self.cpu_share, 4),
            "fps": round(self.fps, 2),
            "fps_p10": round(self.fps_interval[0], 2),
            "fps_p90": round(self.fps_interval[1], 2),
            "cycles": sum(step.cycles for step in self.steps),
            "bytes": sum(step.nbytes for step in self.steps),
            "weight_bytes": self.weight_bytes,
            "activation_bytes": self.activation_bytes,
            "layers": [step.to_json() for step in self.steps],
        }


def _row(step: Step) -> tuple[str | int | float | None, ...]:
    layer = step.layer
    return (
        layer.name,
        "+".join((layer.op, *layer.fused)),
        "x".join(map(str, layer.output)),
        step.placement.text,
        round(step.cycles / 1e6, 4),
        round(step.nbytes / 1e6, 3),
        step.placement.reason or None,
    )
