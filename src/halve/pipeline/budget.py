"""From a budget to a scheme for every fused group of layers: what each choice costs and loses, and the best mixture."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Event

import numpy as np
from numpy.typing import NDArray

from halve import algorithms
from halve.checkpoint.base import FLOATS, Checkpoint, TensorInfo
from halve.errors import CheckpointError, RecipeError, UnsupportedError
from halve.layouts.base import module
from halve.pipeline.allocate import Allocation, Option, allocate
from halve.pipeline.bands import read_bands
from halve.pipeline.calibration import Calibration
from halve.pipeline.outputs import energy
from halve.pipeline.plan import Plan, TensorPlan
from halve.pipeline.sensitivity import Sensitivity
from halve.pipeline.statistics import StatisticsFile
from halve.pipeline.workers import Buffers, run
from halve.schemes.quantize import absmax, dequantize, tensor_scale
from halve.schemes.statistics import Statistics

logger = logging.getLogger("halve")

_TINY = 1e-30
_BPW = re.compile(r"\s*(\d+(?:\.\d+)?)\s*bpw\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Budget:
    """How large the result may be: ``bpw`` bits for every quantized weight, or ``nbytes`` for all weight files."""

    bpw: float | None = None
    nbytes: int | None = None

    @classmethod
    def parse(cls, text: str, size: Callable[[str], int]) -> "Budget":
        """From ``5.0bpw``, or a size that ``size`` reads."""
        found = _BPW.fullmatch(text)
        return cls(bpw=float(found[1])) if found else cls(nbytes=size(text))

    def for_layers(self, job: Plan) -> int:
        """Bytes that the quantized layers of ``job`` may take."""
        if self.bpw is not None:
            weights = sum(t.source.rows * t.source.columns for t in job.quantized)
            return int(self.bpw * weights / 8)
        assert self.nbytes is not None  # noqa: S101 - one of the two is there
        return self.nbytes - (job.file_bytes() - sum(t.nbytes for t in job.quantized))


def overrides(
    checkpoint: Checkpoint,
    jobs: Mapping[str, Plan],
    statistics: StatisticsFile,
    budget: Budget,
    threads: int | None,
) -> tuple[tuple[str, str], ...]:
    """Which tensors of ``checkpoint`` get which of the schemes ``jobs`` (plans by scheme, the main one first).

    A choice's loss is the error that it makes in a layer's outputs, ``dW H dW'`` for the Hessian H of its inputs (its
    diagonal where there is no more). Where the statistics tell how much each output matters (``gradient_square``, by a
    backward pass) errors are weighed by it, which estimates the model's KL divergence (Fisher information). Otherwise
    the divergence under the main scheme is measured, one group after the other, and a choice's is taken to be in the
    proportion of the errors. Of an architecture that halve does not run each error counts relative to its outputs.

    Raises UnsupportedError for a budget below the smallest mixture or above the largest, RecipeError where there is
    nothing to choose.
    """
    main = next(iter(jobs))
    if len(jobs) < 2:
        raise RecipeError(f"a budget needs schemes to choose between, and there is {main} only", hint="add --allow")
    groups: dict[str, dict[str, list[TensorPlan]]] = {}
    for name, job in jobs.items():
        for tensor in job.quantized:
            groups.setdefault(tensor.group, {}).setdefault(name, []).append(tensor)
    whole = {group: choices for group, choices in groups.items() if len(choices) == len(jobs)}
    calibration, buffers = Calibration(statistics), Buffers()

    def measure(group: str, stop: Event) -> tuple[str, _Errors]:
        return group, _errors(checkpoint, whole[group], calibration, buffers, stop)

    errors = dict(run(measure, whole, threads))
    if not all(of_group.fisher for of_group in errors.values()):
        tensors = {group: choices[main] for group, choices in whole.items()}
        scales = _measured(checkpoint, tensors, calibration, {g: of_group.loss[main] for g, of_group in errors.items()})
        errors = {group: of_group.scaled(scales.get(group, of_group.relative)) for group, of_group in errors.items()}
    options = {
        group: [Option(name, sum(t.nbytes for t in tensors), errors[group].loss[name]) for name, tensors in of.items()]
        for group, of in whole.items()
    }
    allowed = budget.for_layers(jobs[main])
    largest = sum(max(option.nbytes for option in of_group) for of_group in options.values())
    if allowed > largest * 1.001 + 1:
        raise UnsupportedError(
            f"the budget is {allowed / 1e6:,.1f} MB for these layers, and {largest / 1e6:,.1f} MB is the most that "
            f"{' and '.join(jobs)} can take",
            hint="name the larger scheme alone, or allow a larger one",
        )
    chosen: Allocation[str] = allocate(options, allowed)
    return tuple(
        (tensor.source.name.removesuffix(".weight"), option.choice)
        for group, option in chosen.options.items()
        if option.choice != main
        for tensor in whole[group][main]
    )


@dataclass(frozen=True, slots=True)
class _Errors:
    """What a fused group loses under each choice: as Fisher information tells, or the square error of its outputs."""

    loss: Mapping[str, float]
    signal: float  # the mean square of the outputs
    fisher: bool

    @property
    def relative(self) -> float:
        """What makes the losses relative to the outputs."""
        return 1 / max(self.signal, _TINY)

    def scaled(self, factor: float) -> "_Errors":
        """Losses that many times as large."""
        return replace(self, loss={name: factor * error for name, error in self.loss.items()})


def _errors(
    checkpoint: Checkpoint,
    choices: Mapping[str, Sequence[TensorPlan]],
    calibration: Calibration,
    buffers: Buffers,
    stop: Event,
) -> _Errors:
    """The weighed output error of a fused group under each choice."""
    first = next(iter(choices.values()))
    weights = [_matrix(checkpoint, tensor.source, buffers, stop) for tensor in first]
    amax = max(absmax(w) for w in weights)
    found = dict.fromkeys(choices, 0.0)
    signal = 0.0
    fisher = True
    for index, (tensor, w) in enumerate(zip(first, weights, strict=True)):
        known = calibration.of(tensor.source)
        metric = np.ones(w.shape[1], np.float32) if known is None else known.mean_square
        if known is not None and known.hessian is not None:
            metric = known.hessian
        outputs = calibration.gradient_square(tensor.source)
        fisher = fisher and outputs is not None
        signal += energy(w, metric, None)
        for name, tensors in choices.items():
            found[name] += energy(w - _quantized(tensors[index], w, known, amax), metric, outputs)
    return _Errors(found, signal, fisher)


def _quantized(
    tensor: TensorPlan, w: NDArray[np.float32], known: Statistics | None, amax: float
) -> NDArray[np.float32]:
    """``w`` under the scheme of ``tensor``, by the quickest algorithm that knows its inputs."""
    assert tensor.scheme is not None  # noqa: S101 - quantized tensors have one
    block = tensor.scheme.weight
    algorithm = algorithms.get("rtn" if known is None else "hessian_diag").prepared(block, known)
    return dequantize(algorithm.quantize(w, tensor_scale=tensor_scale(block, amax)))


def _measured(
    checkpoint: Checkpoint,
    groups: Mapping[str, Sequence[TensorPlan]],
    calibration: Calibration,
    errors: Mapping[str, float],
) -> dict[str, float]:
    """KL divergence for each unit of ``errors`` in the outputs of a group; nothing where the model cannot be run."""
    try:
        sensitivity = Sensitivity(checkpoint.path)
    except (UnsupportedError, CheckpointError) as error:
        logger.warning("the budget is spent by errors of layers, for halve cannot run the model: %s", error)
        return {}
    buffers, stop, found = Buffers(), Event(), {}
    for group, tensors in groups.items():
        weights = {tensor: _matrix(checkpoint, tensor.source, buffers, stop) for tensor in tensors}
        amax = max(map(absmax, weights.values()))
        divergence = sensitivity.divergence(
            {module(t.source.name): _quantized(t, w, calibration.of(t.source), amax) for t, w in weights.items()}
        )
        if divergence is not None:
            found[group] = divergence / max(errors[group], _TINY)
    typical = float(np.median(list(found.values()))) if found else 0.0
    return {group: found.get(group, typical) for group in groups} if found else {}


def _matrix(checkpoint: Checkpoint, info: TensorInfo, buffers: Buffers, stop: Event) -> NDArray[np.float32]:
    assert info.dtype in FLOATS  # noqa: S101 - it is planned to be quantized
    return np.concatenate([band.astype(np.float32) for band in read_bands(checkpoint, info, buffers, stop)])
