"""The folding that a job's transforms amount to: which channels are divided by what, from statistics and weights."""

from collections.abc import Iterable, Mapping
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halve.checkpoint.base import DTYPES, FLOATS, Checkpoint, TensorInfo, read_array
from halve.errors import UnsupportedError
from halve.models import arch
from halve.models.arch import Edge
from halve.pipeline.bands import read_bands
from halve.pipeline.plan import Plan
from halve.pipeline.statistics import StatisticsFile
from halve.pipeline.workers import Buffers, run
from halve.transforms import smoothquant
from halve.transforms.folding import Factors, Folding, through_norm


def fold(checkpoint: Checkpoint, statistics: StatisticsFile | None, job: Plan, threads: int | None) -> Folding:
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
    quantized = {tensor.source.name for tensor in job.quantized}
    edges = arch.of(checkpoint.config).edges(checkpoint.tensors)
    found = [edge for edge in edges if quantized.issuperset(edge.consumers)]
    if not found:
        raise UnsupportedError(
            f"{checkpoint.path}: halve knows no channels of this architecture that could be smoothed",
            hint="leave out --transform",
        )
    weights = _column_amax(checkpoint, {name for edge in found for name in edge.consumers}, threads)
    folding = Folding()
    for edge in found:
        folding |= _along(edge, checkpoint, statistics, weights)
    return folding


def _column_amax(checkpoint: Checkpoint, names: Iterable[str], threads: int | None) -> dict[str, Factors]:
    """The largest weight of each column of each tensor."""
    buffers = Buffers()

    def one(info: TensorInfo, stop: Event) -> tuple[str, Factors]:
        amax = np.zeros(info.columns, np.float32)
        for band in read_bands(checkpoint, info, buffers, stop):
            np.maximum(amax, np.abs(band.astype(np.float32)).max(0), out=amax)
        return info.name, amax

    return dict(run(one, [checkpoint.tensors[name] for name in sorted(names)], threads))


def _along(edge: Edge, checkpoint: Checkpoint, statistics: StatisticsFile, weights: Mapping[str, Factors]) -> Folding:
    """The folding along one edge."""
    known = [statistics.of(name, checkpoint.tensors[name].columns) for name in edge.consumers]
    if not all(known):
        return Folding()
    inputs = np.maximum.reduce([of_inputs.amax for of_inputs in known if of_inputs])
    wanted = smoothquant.factors(
        edge.shared(inputs), edge.shared(np.maximum.reduce([weights[name] for name in edge.consumers]))
    )
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
