"""The folding that a job's transforms amount to: which channels are divided by what, from statistics and weights."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halve import algorithms
from halve.checkpoint.base import DTYPES, FLOATS, Checkpoint, TensorInfo, read_array
from halve.errors import UnsupportedError
from halve.models import arch
from halve.models.arch import Edge
from halve.pipeline.bands import read_bands
from halve.pipeline.outputs import energy
from halve.pipeline.plan import Plan, TensorPlan
from halve.pipeline.statistics import StatisticsFile
from halve.pipeline.workers import Buffers, Crew
from halve.schemes.quantize import absmax, dequantize, tensor_scale
from halve.schemes.statistics import Statistics
from halve.transforms import awq, smoothquant
from halve.transforms.folding import Factors, Folding, through_norm


def fold(checkpoint: Checkpoint, statistics: StatisticsFile | None, job: Plan, crew: Crew) -> Folding:
    """What the transforms of ``job`` do to ``checkpoint``; reads the weights that they look at once.

    Raises UnsupportedError where there are no statistics, or no edges that channels could be moved along.
    """
    if not job.recipe.transforms:
        return Folding()
    if statistics is None:
        raise UnsupportedError(
            f"{' and '.join(job.recipe.transforms)} needs the statistics of activations",
            hint="add --calibrate builtin, or --stats with a file of `halve calibrate`",
        )
    found = list(_edges(checkpoint, {tensor.source.name for tensor in job.quantized}))
    if not found:
        raise UnsupportedError(
            f"{checkpoint.path}: halve knows no channels of this architecture that could be smoothed",
            hint="leave out --transform",
        )
    if len(set(job.recipe.transforms)) > 1:
        raise UnsupportedError(
            f"{' and '.join(job.recipe.transforms)} move the same channels", hint="choose one --transform"
        )
    if job.recipe.transforms[0] == "awq":
        found = [edge for edge in found if all(statistics.of(n, checkpoint.tensors[n].columns) for n in edge.consumers)]
        planned = {tensor.source.name: tensor for tensor in job.quantized}
        tried = _Trial(checkpoint, statistics, planned, crew.buffers())
        factors: list[Factors | None] = list(crew.run(tried.best, found))
    else:
        found = [
            edge for edge in found if len(checkpoint.tensors[edge.producer].shape) == 1
        ]  # norms: others lose by it
        weights = _column_amax(checkpoint, {name for edge in found for name in edge.consumers}, crew)
        factors = [_balanced(edge, checkpoint, statistics, weights) for edge in found]
    folding = Folding()
    for edge, wanted in zip(found, factors, strict=True):
        if wanted is not None:
            folding |= _along(edge, checkpoint, wanted)
    return folding


def foldable(checkpoint: Checkpoint, job: Plan) -> bool:
    """Whether there are channels in ``checkpoint`` that a transform could move between layers of ``job``."""
    return any(True for _ in _edges(checkpoint, {tensor.source.name for tensor in job.quantized}))


def _edges(checkpoint: Checkpoint, quantized: set[str]) -> Iterator[Edge]:
    edges = arch.of(checkpoint.config).edges(checkpoint.tensors)
    return (edge for edge in edges if quantized.issuperset(edge.consumers))


@dataclass(frozen=True, slots=True)
class _Trial:
    """Trying out how much to move along an edge: by the change of the consumers' outputs, under their own schemes."""

    checkpoint: Checkpoint
    statistics: StatisticsFile
    tensors: Mapping[str, TensorPlan]
    buffers: Buffers

    def best(self, edge: Edge, stop: Event) -> Factors:
        """The best of AWQ's candidates along ``edge``, of which all consumers have statistics."""
        weights = {name: self._matrix(name, stop) for name in edge.consumers}
        known = {name: self.statistics.of(name, w.shape[1]) for name, w in weights.items()}
        rms = np.sqrt(np.maximum.reduce([of_inputs.mean_square for of_inputs in known.values() if of_inputs]))

        def loss(wanted: Factors) -> float:
            columns = edge.spread(wanted)
            folding = Folding(columns=dict.fromkeys(weights, columns))
            scaled = {name: w * columns for name, w in weights.items()}
            amax: dict[str, float] = {}
            for name, w in scaled.items():
                group = self.tensors[name].group
                amax[group] = max(amax.get(group, 0.0), absmax(w))
            return sum(
                self._loss(w, self.tensors[name], folding.statistics(name, known[name]), amax)
                for name, w in scaled.items()
            )

        return min(awq.candidates(edge.shared(rms)), key=loss)

    def _loss(
        self, w: NDArray[np.float32], tensor: TensorPlan, known: Statistics | None, amax: Mapping[str, float]
    ) -> float:
        assert tensor.scheme is not None and known is not None  # noqa: S101, PT018 - `fold` has looked
        block = tensor.scheme.weight
        q = algorithms.get("hessian_diag").prepared(block, known)
        error = w - dequantize(q.quantize(w, tensor_scale=tensor_scale(block, amax[tensor.group])))
        return energy(error, known.mean_square if known.hessian is None else known.hessian)

    def _matrix(self, name: str, stop: Event) -> NDArray[np.float32]:
        bands = read_bands(self.checkpoint, self.checkpoint.tensors[name], self.buffers, stop)
        return np.concatenate([band.astype(np.float32) for band in bands])


def _column_amax(checkpoint: Checkpoint, names: Iterable[str], crew: Crew) -> dict[str, Factors]:
    """The largest weight of each column of each tensor."""
    buffers = crew.buffers()

    def one(info: TensorInfo, stop: Event) -> tuple[str, Factors]:
        amax = np.zeros(info.columns, np.float32)
        for band in read_bands(checkpoint, info, buffers, stop):
            np.maximum(amax, np.abs(band.astype(np.float32)).max(0), out=amax)
        return info.name, amax

    return dict(crew.run(one, [checkpoint.tensors[name] for name in sorted(names)]))


def _balanced(
    edge: Edge, checkpoint: Checkpoint, statistics: StatisticsFile, weights: Mapping[str, Factors]
) -> Factors | None:
    """SmoothQuant's factors along ``edge``; None where the inputs of a consumer are not known."""
    known = [statistics.of(name, checkpoint.tensors[name].columns) for name in edge.consumers]
    if not all(known):
        return None
    inputs = np.maximum.reduce([of_inputs.amax for of_inputs in known if of_inputs])
    return smoothquant.factors(
        edge.shared(inputs), edge.shared(np.maximum.reduce([weights[name] for name in edge.consumers]))
    )


def _along(edge: Edge, checkpoint: Checkpoint, wanted: Factors) -> Folding:
    """The folding along one edge."""
    producer = checkpoint.tensors[edge.producer]
    if len(producer.shape) == 1 and edge.bias:
        return Folding()
    if len(producer.shape) == 1:
        norm, columns = through_norm(_vector(checkpoint, producer), wanted, DTYPES[producer.dtype], edge.offset)
        return Folding(columns=dict.fromkeys(edge.consumers, columns), norms={edge.producer: norm})
    rows = edge.placed(np.float32(1) / wanted, producer.rows)
    return Folding(
        dict.fromkeys(filter(None, (edge.producer, edge.bias)), rows),
        dict.fromkeys(edge.consumers, edge.spread(wanted)),
    )


def _vector(checkpoint: Checkpoint, info: TensorInfo) -> NDArray[Any]:
    if info.dtype not in FLOATS:
        raise UnsupportedError(f"{info.name} is {info.dtype}, no norm that can be scaled", hint="leave out --transform")
    return read_array(checkpoint, info.name).astype(np.float32)
