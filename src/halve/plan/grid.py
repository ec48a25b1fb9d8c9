"""Every cut and batch of one machine and precision that fits into memory, with its times, in arrays."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from halve.hardware import Machine
from halve.models.shape import Shape
from halve.plan.factors import Factors, fitted, prefill_seconds, step_parts, step_seconds
from halve.plan.memory import GPU_RESERVE, Memory, cache_bytes, device_weights, role_bytes, workspace_bytes
from halve.plan.parallel import Parallel, candidates
from halve.plan.precision import Precision, arithmetic
from halve.plan.prediction import HOSTED, MAX_BATCH
from halve.plan.request import Request
from halve.plan.roofline import CHUNK, Array, Cut, Work, decode, prefill

HOSTED_CHUNK = 512  # tokens that llama.cpp prefills at once (n_ubatch)
_BATCHES = tuple(1 << k for k in range(MAX_BATCH.bit_length()))


@dataclass(frozen=True, slots=True)
class Grid:
    """Cases: how each is cut, sequences of a group, memory; seconds of a step, a token and the first one.

    ``ttft`` is NaN where the machine's arithmetic rate is not known. ``prompts``: device-seconds of reading a prompt.
    """

    cases: tuple[tuple[Parallel, int, Memory], ...]
    step: Array
    tpot: Array
    ttft: Array
    prompts: Array
    devices: Array
    sequences: Array  # of all groups
    work: Work
    factors: Factors

    @property
    def rate(self) -> Array:
        """Tokens a second, all sequences together."""
        return self.sequences / self.tpot

    def binding(self, index: int) -> str:
        """What most of the time between two tokens of case ``index`` is spent on."""
        parts = {name: float(part[index]) for name, part in step_parts(self.work, self.factors).items()}
        parts["prefilling other prompts"] = float((self.tpot - self.step)[index])
        return max(parts, key=lambda name: parts[name])


def engine_of(machine: Machine) -> tuple[str, str]:
    """The kind of measurement and the engine whose factors apply to ``machine``."""
    if machine.kind == "npu":
        return "single", "RKLLM"
    return ("single", "llama.cpp") if machine.kind in HOSTED else ("online", "vLLM")


def grid(
    shape: Shape, machine: Machine, precision: Precision, request: Request, weights: int | None = None
) -> Grid | None:
    """All that fits; None where nothing does, or memory or bandwidth of the machine are not known."""
    if machine.bandwidth_gbs.value is None or machine.memory_gb.value is None:
        return None
    kind, engine = engine_of(machine)
    single = kind == "single"
    cases = _fitting(shape, machine, precision, request, weights)
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
    waited = np.zeros_like(step) if single else factors.interference * sizes * shared / request.output
    devices, sequences = cut.tp * cut.pp * cut.dp, sizes * cut.dp
    ttft = alone + step if single else fitted().first.time(alone, sizes)
    known = machine.rate(arithmetic(machine, precision.scheme)) is not None
    return Grid(
        cases=tuple(cases),
        step=step,
        tpot=step + waited,
        ttft=ttft if known else np.full_like(step, np.nan),
        prompts=shared * devices if single else waited * request.output * devices / sequences,
        devices=devices,
        sequences=sequences,
        work=work,
        factors=factors,
    )


def _fitting(
    shape: Shape, machine: Machine, precision: Precision, request: Request, weights: int | None
) -> list[tuple[Parallel, int, Memory]]:
    capacity = (machine.memory_gb.low or 0) * 1e9
    hosted = machine.kind in HOSTED
    reserve, chunk = (0, min(request.prompt, HOSTED_CHUNK)) if hosted else (GPU_RESERVE, min(request.prompt, CHUNK))
    by_role = role_bytes(shape, precision)
    found = []
    for parallel in candidates(shape, machine):
        local = device_weights(by_role, parallel, weights=weights)
        each = cache_bytes(shape, precision, request.prompt + request.output, parallel.tp) / parallel.pp
        for batch in _batches(parallel, request.batch, hosted=hosted):
            held = Memory(local, int(batch * each), workspace_bytes(shape, batch, parallel.tp, chunk), reserve)
            if held.total > capacity:
                break
            found.append((parallel, batch, held))
    return found


def _batches(parallel: Parallel, asked: int | None, *, hosted: bool) -> Iterable[int]:
    """Sequences of a group to try, ascending: powers of two, or its share of what is asked for; hosted ones take 1."""
    if asked is None:
        return (1,) if hosted else _BATCHES
    size, left = divmod(asked, parallel.dp)
    return () if left or (hosted and size > 1) else (size,)
