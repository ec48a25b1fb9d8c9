"""Every way to serve a model: machines x precisions x cuts x batches, ranked by what a million tokens cost."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from halve import schemes
from halve.hardware import Machine
from halve.models.shape import Shape
from halve.plan.cost import UTILISATION, Cost, cost
from halve.plan.factors import fitted, prefill_seconds, step_parts, step_seconds
from halve.plan.memory import GPU_RESERVE, Memory, cache_bytes, device_weights, role_bytes, workspace_bytes
from halve.plan.parallel import Parallel, candidates
from halve.plan.precision import WIDE, Precision, arithmetic
from halve.plan.prediction import HOSTED, MAX_BATCH
from halve.plan.roofline import CHUNK, Cut, decode, prefill

HOSTED_CHUNK = 512  # tokens that llama.cpp prefills at once (n_ubatch)
_BATCHES = tuple(1 << k for k in range(MAX_BATCH.bit_length()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for: ``prompt`` and ``output`` tokens of a request; limits in seconds, where there are any."""

    prompt: int
    output: int
    ttft: float | None = None
    tpot: float | None = None
    utilisation: float = UTILISATION


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way to serve. Seconds; ``batch`` is of all groups; ``excess``: by what factor limits are missed, at least 1."""

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
            "tpot_s": self.tpot,
            "tpot_p10_p90_s": [self.tpot * low, self.tpot * high],
            "tokens_per_second": self.tokens_per_second,
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


def _engine(machine: Machine) -> tuple[str, str]:
    """The kind of measurement and the engine whose factors apply."""
    if machine.kind == "npu":
        return "single", "RKLLM"
    return ("single", "llama.cpp") if machine.kind in HOSTED else ("online", "vLLM")


def _best(shape: Shape, machine: Machine, precision: Precision, request: Request, weights: int | None) -> Option | None:
    """The cheapest cut and batch that fit; None where none does or the machine's bandwidth is not known."""
    if machine.bandwidth_gbs.value is None or machine.memory_gb.value is None:
        return None
    kind, engine = _engine(machine)
    capacity = int((machine.memory_gb.low or 0) * 1e9)
    single = kind == "single"
    hosted = machine.kind in HOSTED
    reserve, chunk = (0, min(request.prompt, HOSTED_CHUNK)) if hosted else (GPU_RESERVE, min(request.prompt, CHUNK))
    by_role = role_bytes(shape, precision)
    cases: list[tuple[Parallel, int, Memory]] = []
    for parallel in candidates(shape, machine):
        local = device_weights(by_role, parallel, weights=weights)
        each = cache_bytes(shape, precision, request.prompt + request.output, parallel.tp) / parallel.pp
        for batch in (1,) if single else _BATCHES:
            room = workspace_bytes(shape, batch, parallel.tp, chunk)
            found = Memory(local, int(batch * each), room, reserve)
            if found.total > capacity:
                break
            cases.append((parallel, batch, found))
    if not cases:
        return None
    columns = np.array([(p.tp, p.pp, p.dp, b) for p, b, _ in cases], float).T
    cut, sizes = Cut(*columns[:3]), columns[3]
    factors = fitted().factors(kind, engine, machine.generation, precision.scheme.name)
    what = (shape, machine, precision)
    context = np.full_like(sizes, request.prompt + request.output / 2)
    work = decode(*what, batch=sizes, context=context, cut=cut)
    tokens = np.full_like(sizes, float(request.prompt))
    shared = prefill_seconds(prefill(*what, tokens=tokens, cut=cut), factors)
    alone = prefill_seconds(prefill(*what, tokens=tokens, cut=cut, alone=True), factors)
    step = step_seconds(work, factors)
    tpot = step + (0 if single else factors.interference * sizes * shared / request.output)
    ttft = alone + step
    reads = machine.rate(arithmetic(machine, precision.scheme)) is not None
    excess = np.maximum(tpot / (request.tpot or np.inf), (ttft if reads else 0 * ttft) / (request.ttft or np.inf))
    excess = np.maximum(excess, 1.0)
    if request.ttft is not None and not reads:
        excess = np.maximum(excess, 1e6)  # who asks for a time to the first token needs a known rate
    devices = cut.tp * cut.pp * cut.dp
    rate = sizes * cut.dp / tpot
    index = int(np.lexsort((-rate / devices, np.round(excess, 6)))[0])
    if not np.isfinite(tpot[index]):
        return None
    parallel, size, held = cases[index]
    parts = step_parts(work, factors)
    prompts = float((tpot - step)[index])
    longest = max(parts, key=lambda name: float(parts[name][index]))
    binding = longest if float(parts[longest][index]) >= prompts else "prefilling other prompts"
    group = float(cut.tp[index] * cut.pp[index])
    return Option(
        machine=machine,
        precision=precision,
        parallel=parallel,
        batch=size * parallel.dp,
        memory=held,
        capacity=capacity,
        ttft=float(ttft[index]) if reads else None,
        tpot=float(tpot[index]),
        interval=fitted().interval(kind, machine.name),
        tokens_per_second=float(rate[index]),
        binding=binding,
        cost=cost(
            machine,
            read=group * float(shared[index]) / request.prompt,
            written=float(devices[index] / (sizes * cut.dp)[index] * step[index]),
            prompt=request.prompt,
            output=request.output,
            utilisation=request.utilisation,
        ),
        measured=machine.name in fitted().measured[kind],
        remarks=tuple(_remarks(machine, precision, kind, reads=reads)),
        excess=float(excess[index]),
    )


def _remarks(machine: Machine, precision: Precision, kind: str, *, reads: bool) -> Iterator[str]:
    if machine.name not in fitted().measured[kind]:
        yield "no measured points for this device"
    if machine.preliminary:
        yield "preliminary specification"
    if not reads:
        yield "arithmetic rate not known: no time to the first token"
    elif machine.rate(WIDE) is None:
        yield "16-bit rate not known: the arithmetic of attention is left out"
    if arithmetic(machine, precision.scheme) == WIDE and not precision.scheme.dense and precision.scheme.activation:
        yield f"{precision.scheme.name} is expanded to 16 bits"
