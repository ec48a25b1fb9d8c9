"""Every way to serve a model: machines x precisions x cuts x batches, ranked by what a million tokens cost."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from halve import schemes
from halve.hardware import Machine
from halve.models.shape import Shape
from halve.plan.cost import Cost, cost
from halve.plan.factors import fitted
from halve.plan.grid import engine_of, grid
from halve.plan.memory import Memory
from halve.plan.parallel import Parallel
from halve.plan.precision import WIDE, Precision, arithmetic
from halve.plan.prediction import HOSTED
from halve.plan.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way to serve; times in seconds.

    ``batch`` is of all groups; ``excess``: by what factor limits are missed, at least 1.
    """

    machine: Machine
    precision: Precision
    parallel: Parallel
    batch: int
    memory: Memory
    capacity: int  # bytes of a device
    ttft: float | None
    tpot: float
    interval: tuple[float, float]
    tokens_per_second: float
    binding: str
    cost: Cost
    measured: bool
    remarks: tuple[str, ...]
    excess: float

    @property
    def nodes(self) -> int:
        """Boards, or racks where the link joins one."""
        return ceil(self.parallel.devices / self.machine.devices)

    @property
    def per_device(self) -> float:
        """Tokens a second that a device writes."""
        return self.tokens_per_second / self.parallel.devices

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values: seconds, bytes."""
        low, high = self.interval
        low_first, high_first = fitted().intervals["first"]
        return {
            "machine": self.machine.name,
            "preliminary": self.machine.preliminary,
            "scheme": self.precision.scheme.name,
            "kv": self.precision.kv,
            "tp": self.parallel.tp,
            "pp": self.parallel.pp,
            "dp": self.parallel.dp,
            "devices": self.parallel.devices,
            "nodes": self.nodes,
            "batch": self.batch,
            "memory_bytes": self.memory.to_json(),
            "device_bytes": self.capacity,
            "ttft_s": self.ttft,
            "ttft_p10_p90_s": None if self.ttft is None else [self.ttft * low_first, self.ttft * high_first],
            "tpot_s": self.tpot,
            "tpot_p10_p90_s": [self.tpot * low, self.tpot * high],
            "tokens_per_second": self.tokens_per_second,
            "tokens_per_second_p10_p90": [self.tokens_per_second / high, self.tokens_per_second / low],
            "tokens_per_second_per_user": 1 / self.tpot,
            "tokens_per_second_per_device": self.per_device,
            "binding": self.binding,
            "measured": self.measured,
            "remarks": list(self.remarks),
            **self.cost.to_json(),
        }


def precisions(machine: Machine) -> Iterator[Precision]:
    """Those worth a look on ``machine``: 16 bits, and of 8 and 4 bits what it multiplies best."""
    formats = machine.formats
    if machine.kind == "npu":
        names = [name for name, fmt in (("w8a8", "int8"), ("w4a16", "int4")) if formats[fmt].level == "native"]
    elif machine.kind in HOSTED:
        names = [WIDE, "int8_g32", "int4_g32"]
    else:
        narrow = next((s for s, f in (("nvfp4", "nvfp4"), ("mxfp4", "mxfp4")) if formats[f].level == "native"), "w4a16")
        names = [WIDE, "fp8_dynamic" if formats["fp8"].level == "native" else "w8a8", narrow]
    yield from (Precision(schemes.get(name), kv_of(machine, name)) for name in names)


def kv_of(machine: Machine, scheme: str) -> str:
    """Caches in FP8 where the machine has it and the weights are narrow."""
    return "fp8" if machine.formats["fp8"].level == "native" and scheme not in (WIDE, "fp16") else WIDE


def search(
    shape: Shape,
    machines: Iterable[Machine],
    request: Request,
    *,
    only: Sequence[str] = (),
    weights: int | None = None,
) -> list[Option]:
    """The best of each machine and precision, the cheapest first; where limits are missed by all, by how far.

    ``only`` names schemes; ``weights`` is the exact size of the model where it is served as it lies on the disk.
    Machines without a known price come after those with one, by tokens a second of a device.
    """
    found = []
    for machine in machines:
        chosen = [Precision(schemes.get(n), kv_of(machine, n)) for n in only] or precisions(machine)
        for precision in chosen:
            best = _best(shape, machine, precision, request, weights)
            if best is not None:
                found.append(best)
    return sorted(found, key=_rank)


def _rank(option: Option) -> tuple[float, bool, float]:
    mixed = option.cost.mixed
    return option.excess, mixed is None, (mixed.low + mixed.high) / 2 if mixed else -option.per_device


def _best(shape: Shape, machine: Machine, precision: Precision, request: Request, weights: int | None) -> Option | None:
    """The cheapest cut and batch that fit and miss the limits least; None where none fits."""
    found = grid(shape, machine, precision, request, weights)
    if found is None:
        return None
    late = np.nan_to_num(found.ttft / (request.ttft or np.inf), nan=np.inf if request.ttft else 0.0)
    excess = np.maximum(np.maximum(found.tpot / (request.tpot or np.inf), late), 1.0)
    index = int(np.lexsort((found.devices / found.rate, np.round(excess, 6)))[0])
    if not np.isfinite(excess[index]) or not np.isfinite(found.tpot[index]):
        return None
    parallel, size, held = found.cases[index]
    kind, _ = engine_of(machine)
    share = float(found.devices[index] / found.sequences[index])
    ttft = float(found.ttft[index])
    return Option(
        machine=machine,
        precision=precision,
        parallel=parallel,
        batch=size * parallel.dp,
        memory=held,
        capacity=int((machine.memory_gb.low or 0) * 1e9),
        ttft=None if np.isnan(ttft) else ttft,
        tpot=float(found.tpot[index]),
        interval=fitted().interval(kind, machine.name),
        tokens_per_second=float(found.rate[index]),
        binding=found.binding(index),
        cost=cost(
            machine,
            read=float(found.prompts[index]) / request.prompt,
            written=float(found.step[index]) * share,
            prompt=request.prompt,
            output=request.output,
            utilisation=request.utilisation,
        ),
        measured=machine.name in fitted().measured[kind],
        remarks=tuple(_remarks(machine, precision, kind, reads=not np.isnan(ttft))),
        excess=float(excess[index]),
    )


def _remarks(machine: Machine, precision: Precision, kind: str, *, reads: bool) -> Iterator[str]:
    measured = fitted().measured
    if machine.name not in measured[kind]:
        others = [other for other, names in measured.items() if machine.name in names]
        yield f"measured {' and '.join(others)} only" if others else "no measured points for this device"
    if machine.preliminary:
        yield "preliminary specification"
    if not reads:
        yield "arithmetic rate not known: no time to the first token"
    elif machine.rate(WIDE) is None:
        yield "16-bit rate not known: the arithmetic of attention is left out"
    if arithmetic(machine, precision.scheme) == WIDE and not precision.scheme.dense and precision.scheme.activation:
        yield f"{precision.scheme.name} is expanded to 16 bits"
