"""How long a step takes at the limits of the machine: bytes over bandwidth, operations over rate, exponentials, links.

Everything here is what the data sheet allows; how much of it engines reach is in `halve.plan.factors`. Batch, context
and the parallel degrees may be arrays: one call gives a whole search.

Sources: S. Williams et al., "Roofline" (CACM 52(4), 2009); ring all-reduce, 2 (n-1)/n of the data over each link; the
expected number of experts that B tokens choose, E (1 - (1 - k/E)^B).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halve.hardware import Machine
from halve.models.shape import Layer, Matrix, Role, Shape
from halve.plan.precision import WIDE, Precision, arithmetic

Array = NDArray[np.float64]
TERMS = ("projections", "attention", "mlp", "experts", "head")
_TERM_OF: dict[Role, int] = {"attention": 0, "router": 0, "mlp": 2, "shared": 2, "expert": 3, "head": 4}
_LINEAR_MACS = 3  # a gated delta net decays its state, adds an outer product to it and reads it
CHUNK = 8192  # tokens that are prefilled in one pass over the weights: an assumption; engines let users choose


@dataclass(frozen=True, slots=True)
class Cut:
    """Arrays of parallel degrees, as `halve.plan.parallel.Parallel` has them."""

    tp: Array
    pp: Array
    dp: Array


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds at the machine's limits, for `TERMS` (rows) in N cases (columns).

    ``link`` are the seconds that data is on links, ``collectives`` how often devices wait for each other, ``layers``
    how many layers launch their kernels one after the other, and ``mixtures`` how many of them have experts.
    """

    memory: Array
    compute: Array
    exponentials: Array
    link: Array
    collectives: Array
    layers: Array
    mixtures: Array


def decode(shape: Shape, machine: Machine, precision: Precision, *, batch: Array, context: Array, cut: Cut) -> Work:
    """One step in which each of ``batch`` sequences of a group, at ``context`` tokens, gains a token.

    Stages of a pipeline work on their share of the batch at the same time, so that the step lasts as long as one
    share needs through all layers.
    """
    batch = np.maximum(batch / cut.pp, 1.0)
    tokens = batch * cut.dp
    terms = _Terms(machine, precision, batch.shape)
    for layer in shape.layers:
        for matrix in layer.matrices:
            terms.multiply(matrix, layer, cut, rows=batch, tokens=tokens)
        attention = layer.attention
        pairs = batch * _reach(context, attention.window) * layer.count
        terms.memory[1] += (
            (pairs * attention.cached * precision.cache_bits / 8 + 8 * attention.state * batch * layer.count)
            / np.minimum(cut.tp, attention.kv_heads)
            / terms.bandwidth
        )
        macs = pairs * attention.pair_macs + _LINEAR_MACS * attention.state * batch * layer.count
        terms.compute[1] += 2 * macs / cut.tp / terms.wide
        terms.exponentials[1] += pairs * attention.heads / cut.tp / terms.exp2
    terms.multiply(Matrix("head", shape.vocab, shape.hidden), None, cut, rows=batch, tokens=tokens)
    return terms.work(shape, batch, cut)


def prefill(
    shape: Shape, machine: Machine, precision: Precision, *, tokens: Array, cut: Cut, alone: bool = False
) -> Work:
    """Reading a prompt of ``tokens`` tokens in each group at the same time.

    ``alone`` means that no other prompt shares the pass over the weights.
    """
    passes = np.maximum(tokens / CHUNK, 1.0) if alone else tokens / CHUNK
    terms = _Terms(machine, precision, tokens.shape)
    for layer in shape.layers:
        for matrix in layer.matrices:
            terms.multiply(matrix, layer, cut, rows=tokens, tokens=tokens * cut.dp, passes=passes)
        attention = layer.attention
        reach = _reach(tokens, attention.window)
        pairs = (tokens * reach - reach**2 / 2) * layer.count
        macs = pairs * attention.prefill_macs + _LINEAR_MACS * attention.state * tokens * layer.count
        terms.compute[1] += 2 * macs / cut.tp / terms.wide
        terms.exponentials[1] += pairs * attention.heads / cut.tp / terms.exp2
    return terms.work(shape, tokens, cut)


class _Terms:
    """Seconds as they add up."""

    def __init__(self, machine: Machine, precision: Precision, cases: tuple[int, ...]) -> None:
        self.machine, self.precision = machine, precision
        self.bandwidth = (machine.bandwidth_gbs.value or np.nan) * 1e9
        self.wide = machine.rate(WIDE) or np.inf
        self.exp2 = machine.exp2_rate or np.inf
        self.memory, self.compute, self.exponentials = (np.zeros((len(TERMS), *cases)) for _ in range(3))

    def multiply(
        self,
        matrix: Matrix,
        layer: Layer | None,
        cut: Cut,
        *,
        rows: Array,
        tokens: Array,
        passes: Array | None = None,
    ) -> None:
        """Multiply ``rows`` vectors of a group by ``matrix``; experts get the ``tokens`` of all groups."""
        count = layer.count if layer else 1
        term = _TERM_OF[matrix.role]
        scheme = self.precision.of(matrix.role)
        rate = self.machine.rate(arithmetic(self.machine, scheme)) or np.inf
        nbytes = matrix.numbers * count * scheme.bpw / 8
        ways = 1.0 if matrix.role == "router" else cut.tp
        share: Array | float = 1.0
        work = rows
        if matrix.role == "expert" and layer:
            taken = layer.mlp.active / layer.mlp.experts
            ways = cut.tp * cut.dp
            share = 1 - (1 - taken) ** tokens
            work = tokens * taken
        times = share if passes is None else passes
        self.memory[term] += nbytes * times / ways / self.bandwidth
        self.compute[term] += 2 * matrix.numbers * count * work / ways / rate

    def work(self, shape: Shape, rows: Array, cut: Cut) -> Work:
        """With the links: two all-reduces a layer of tp devices, two exchanges a layer with experts of dp groups."""
        depth = shape.depth
        mixtures = sum(layer.count for layer in shape.layers if layer.mlp.experts)
        active = max((layer.mlp.active for layer in shape.layers), default=0)
        near = (self.machine.link_gbs.value or np.nan) * 1e9
        far = (self.machine.scale_out_gbs.value or np.nan) * 1e9
        data = rows * shape.hidden * 2.0
        link = np.zeros_like(data)
        many = cut.tp > 1
        link[many] += (2 * depth * 2 * (cut.tp - 1) / cut.tp * data / near)[many]
        groups = (cut.dp > 1) & (mixtures > 0)
        width = np.where(cut.tp * cut.dp > self.machine.devices, far, near)
        devices = cut.tp * cut.dp
        link[groups] += (2 * mixtures * np.minimum(active, devices - 1) * data / cut.tp / width)[groups]
        collectives = 2.0 * depth * many + 2.0 * mixtures * groups + (cut.pp - 1)
        ones = np.ones_like(data)
        return Work(self.memory, self.compute, self.exponentials, link, collectives, depth * ones, mixtures * ones)


def _reach(context: Array, window: int | None) -> Array:
    return np.minimum(context, window) if window else context
