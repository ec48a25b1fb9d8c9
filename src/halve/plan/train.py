"""Training: bytes of weights, gradients, optimizer states and activations, and time, in four precisions.

Sources: S. Rajbhandari et al., "ZeRO" (arXiv:1910.02054): 2 + 2 + 12 bytes a weight in mixed precision with Adam;
DeepSeek-V3 (arXiv:2412.19437): FP8 with FP32 master weights and gradients, optimizer states narrower. Assumptions, not
read in a source: that those moments take 2 bytes each; that NVFP4 (arXiv:2509.25149) has FP32 gradients, master weights
and moments; what a layer keeps for its backward pass, which is counted here. Six operations a weight and token.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from halve.errors import PlanError
from halve.hardware import Machine, find, machines
from halve.models.shape import Matrix, Shape
from halve.plan.subject import Subject, subject

# Share of the dense rate that large runs reach: 38-43 % in BF16 on H100 (Llama 3, arXiv:2407.21783). An
# assumption for every machine and precision: no training point is fitted.
MFU = 0.4
SEQUENCE, TOKENS = 4096, 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """Bytes of a weight's copies, and the format that matrices are multiplied in; ``saved`` of a saved activation."""

    name: str
    fmt: str
    weight: float
    gradient: float
    master: float
    moments: float
    saved: float

    @property
    def states(self) -> float:
        """Bytes that stay, for each weight."""
        return self.weight + self.gradient + self.master + self.moments


REGIMES = (
    Regime(name="FP32", fmt="fp32", weight=4, gradient=4, master=0, moments=8, saved=4),
    Regime(name="BF16 mixed", fmt="bf16", weight=2, gradient=2, master=4, moments=8, saved=2),
    Regime(name="FP8", fmt="fp8", weight=1, gradient=4, master=4, moments=4, saved=1),
    Regime(name="NVFP4", fmt="nvfp4", weight=4.5 / 8, gradient=4, master=4, moments=8, saved=4.5 / 8),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One precision on one machine: bytes, the fewest devices that hold them, device-hours, None where not known."""

    regime: Regime
    machine: Machine
    states: float
    activations: float
    devices: int | None
    device_hours: float | None
    why: str

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "precision": self.regime.name,
            "machine": self.machine.name,
            "preliminary": self.machine.preliminary,
            "bytes_per_weight": self.regime.states,
            "state_bytes": self.states,
            "activation_bytes": self.activations,
            "devices": self.devices,
            "device_hours": self.device_hours,
            "why": self.why,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """What training ``subject`` takes on each machine."""

    subject: Subject
    tokens: float
    sequence: int
    mfu: float
    options: tuple[Training, ...]

    columns: ClassVar[tuple[str, ...]] = (
        "machine",
        "precision",
        "B/weight",
        "states GB",
        "activations GB",
        "devices at least",
        "device-hours",
        "remarks",
    )

    def rows(self) -> Iterator[tuple[str | int | float | None, ...]]:
        """The cells of `columns`."""
        for option in self.options:
            yield (
                option.machine.name,
                option.regime.name,
                f"{option.regime.states:.4g}",
                f"{option.states / 1e9:.1f}",
                f"{option.activations / 1e9:.1f}",
                option.devices,
                None if option.device_hours is None else f"{option.device_hours:,.0f}",
                option.why,
            )

    @property
    def summary(self) -> str:
        """What is assumed."""
        return (
            f"{self.subject.shape.name}: {self.tokens:.3g} tokens in sequences of {self.sequence}, one a device; "
            f"{self.mfu:.0%} of the dense rate, an assumption. States are spread over all devices (ZeRO 3)."
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "model": self.subject.shape.name,
            "tokens": self.tokens,
            "sequence": self.sequence,
            "mfu": self.mfu,
            "options": [option.to_json() for option in self.options],
        }


def train(
    model: str | Path,
    *,
    hardware: list[str] | tuple[str, ...] | str = ("B200", "VR200-NVL72"),
    tokens: float = TOKENS,
    sequence: int = SEQUENCE,
    mfu: float = MFU,
) -> TrainingPlan:
    """Plan how to train ``model`` on ``tokens`` tokens. Raises UnknownNameError, PlanError for impossible numbers."""
    if tokens <= 0 or sequence < 1 or not 0 < mfu <= 1:
        raise PlanError("tokens, sequence and share of the rate are positive", hint="a share is at most 1")
    what = subject(model)
    names = [hardware] if isinstance(hardware, str) else list(hardware)
    chosen = [m for name in names for m in (machines().values() if name == "all" else (find(name),))]
    options = [
        _option(what.shape, machine, regime, tokens=tokens, sequence=sequence, mfu=mfu)
        for machine in chosen
        if machine.kind == "datacenter" or "all" not in names
        for regime in REGIMES
    ]
    return TrainingPlan(subject=what, tokens=tokens, sequence=sequence, mfu=mfu, options=tuple(options))


def operations(shape: Shape, tokens: float, sequence: int) -> tuple[float, float]:
    """Operations of all matrices but the head, and of what stays in 16 bits: the head and attention, backward twice."""
    head = shape.vocab * shape.hidden
    pairs = sum(
        layer.count * layer.attention.prefill_macs * layer.attention.reach(sequence / 2) for layer in shape.layers
    )
    return 6 * (shape.active - head) * tokens, 6 * (head + pairs) * tokens


def activation_bytes(shape: Shape, regime: Regime, sequence: int) -> float:
    """What one sequence keeps for the backward pass, fused attention: inputs of matrices, and of norms in 16 bits."""
    total = 0.0
    for layer in shape.layers:
        share = layer.mlp.active / layer.mlp.experts if layer.mlp.experts else 1
        # gate and up share their input; of experts each that is taken has one
        inputs = {(m.role, m.columns): m.columns * _copies(m, layer.mlp.active) for m in layer.matrices}
        queries = sum(m.rows for m in layer.attention.matrices[:-1])
        outputs = sum(m.rows * m.count * (share if m.role == "expert" else 1) for m in layer.mlp.matrices)
        wide = max(regime.saved, 2.0)
        total += layer.count * (sum(inputs.values()) * regime.saved + (queries + outputs + 2 * shape.hidden) * wide)
    return total * sequence + 4.0 * shape.vocab * sequence


def _copies(matrix: Matrix, active: int) -> int:
    return active if matrix.role == "expert" else 1


def _option(shape: Shape, machine: Machine, regime: Regime, *, tokens: float, sequence: int, mfu: float) -> Training:
    states = shape.count * regime.states
    activations = activation_bytes(shape, regime, sequence)
    capacity = (machine.memory_gb.low or 0) * 1e9
    devices = None
    if capacity > activations:
        devices = max(1, -int(-states // (capacity - activations)))
    narrow, wide = operations(shape, tokens, sequence)
    native = regime.fmt == "fp32" or machine.formats[regime.fmt].level == "native"
    rate = machine.rate(regime.fmt) if native else None
    other = rate if regime.fmt == "fp32" else machine.rate("bf16")
    hours = None if rate is None or other is None else (narrow / rate + wide / other) / mfu / 3600
    why = "" if native else f"{machine.name} does not multiply {regime.fmt}"
    if native and hours is None:
        missing = regime.fmt if rate is None else "bf16"
        why = f"the dense {missing} rate of {machine.name} is not known"
        if rate is not None:
            why += f"; the matrices alone take {narrow / rate / mfu / 3600:,.0f} device-hours"
    if devices is None:
        why = "; ".join(filter(None, (why, "one sequence does not fit: shorten it, or recompute")))
    return Training(
        regime=regime,
        machine=machine,
        states=states,
        activations=activations,
        devices=devices,
        device_hours=hours,
        why=why,
    )
