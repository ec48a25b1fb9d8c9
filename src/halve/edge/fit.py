"""Fit how far NPUs stay behind published rates: `python -m halve.edge.fit POINTS`, which writes ``data/factors.json``.

The loss is Huber's of log(predicted / measured). Factors are common to all targets and types, with differences for each
target and for 16-bit types that a ridge holds near none. Errors, and the interval, are of models that the fit did not
see: it is repeated without each of them, and those factors are kept, too, so that an error can be told without fitting.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halve.edge.capability import place
from halve.edge.cost import ARRAY, NAMES, Array, seconds, terms
from halve.edge.factors import LEVELS, PATH, member
from halve.edge.models import published
from halve.edge.points import Point, read
from halve.edge.targets import WIDTHS

# Where the fit starts, and is held: factor -> value, standard deviation of its logarithm
_START: dict[str, tuple[float, float]] = {
    "conv": (0.6, 0.5),
    "depthwise": (0.5, 0.7),
    "product": (0.3, 0.7),
    "memory": (0.5, 0.5),
    "moved": (0.5, 0.7),
    "curve": (0.7, 0.7),
    "cpu": (0.1, 0.7),
    "layer": (20e-6, 0.7),
    "switch": (100e-6, 0.7),
}
_RIDGE = 0.35  # standard deviation of a difference between levels
_NONE = 1e-3  # of one that there is not
_HUBER = 0.15  # log residuals beyond this count linearly
_ITERATIONS, _STEP = 40, 1e-4
_QUANTILES = (0.1, 0.9)


class Problem:
    """Points, their layers' terms one below another, and which levels each point belongs to."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.points = points
        blocks = [_work(point) for point in points]
        self.work = np.concatenate([work for _, work in blocks])
        self.counts = np.concatenate([counts for counts, _ in blocks])
        self.owner = np.repeat(np.arange(len(points)), [len(work) for _, work in blocks])
        self.levels = np.array([member(point.target.name, point.dtype) for point in points])
        self.measured = np.array([point.seconds for point in points])

    def residuals(self, x: Array) -> Array:
        """log(predicted / measured) under the parameters ``x``: logarithms, then differences [factors, levels]."""
        logs = x[: len(NAMES)] + self.levels @ x[len(NAMES) :].reshape(len(NAMES), -1).T
        values = np.exp(logs)[self.owner]
        each = seconds(self.work, {name: values[:, i] for i, name in enumerate(NAMES)}) * self.counts
        found: Array = np.log(np.bincount(self.owner, each, len(self.points)) / self.measured)
        return found

    def solve(self, mask: NDArray[np.bool_]) -> Array:
        """The parameters that fit the points of ``mask``: Levenberg-Marquardt with numerical derivatives."""
        start = np.concatenate([np.log([_START[name][0] for name in NAMES]), np.zeros(len(NAMES) * len(LEVELS))])
        held = np.concatenate([[1 / _START[name][1] for name in NAMES], _holds().ravel()])

        def loss(x: Array) -> tuple[float, Array]:
            r = self.residuals(x)[mask]
            size = np.abs(r)
            huber = np.where(size < _HUBER, r**2 / (2 * _HUBER), size - _HUBER / 2) / _HUBER
            return float(huber.sum() + ((held * (x - start)) ** 2).sum() / 2), r

        x, damping = start, 1.0
        best, r = loss(x)
        for _ in range(_ITERATIONS):
            jacobian = np.empty((len(r), len(x)))
            for index in range(len(x)):
                moved = x.copy()
                moved[index] += _STEP
                jacobian[:, index] = (self.residuals(moved)[mask] - r) / _STEP
            weight = 1 / np.maximum(np.abs(r), _HUBER) / _HUBER
            hessian = jacobian.T @ (weight[:, None] * jacobian) + np.diag(held**2)
            gradient = jacobian.T @ (weight * r) + held**2 * (x - start)
            for _ in range(8):
                trial = x - np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)), gradient)
                found, new = loss(trial)
                if found < best:
                    break
                damping *= 4
            else:
                break
            settled = best - found < 1e-4 * best
            x, best, r, damping = trial, found, new, damping / 4
            if settled:
                break
        return x


def _holds() -> Array:
    """How differences are held, [factors, levels]: 16 bits change what the array reaches, and bytes are bytes."""
    found = np.full((len(NAMES), len(LEVELS)), 1 / _RIDGE)
    found[[name not in ARRAY for name in NAMES], -1] = 1 / _NONE
    return found


def _work(point: Point) -> tuple[Array, Array]:
    """How many layers of each kind the model has, and their terms."""
    table = published()[point.model]
    rows = [terms(layer, place(layer, point.target, point.dtype), point.target) for _, layer in table]
    return np.array([float(count) for count, _ in table]), np.array(rows)


def fitted(points: Sequence[Point], source: str) -> dict[str, object]:
    """The content of the file of factors."""
    problem = Problem(points)
    models = np.array([point.model for point in points])
    every = problem.solve(np.ones(len(points), bool))
    left = {name: problem.solve(models != name) for name in sorted(set(models))}
    outside = np.array([problem.residuals(left[model])[i] for i, model in enumerate(models)])

    wide = np.array([WIDTHS[point.dtype] == 2 for point in points])

    def entry(x: Array, seen: NDArray[np.bool_]) -> dict[str, object]:
        ratios = [np.exp(-outside[seen & kind]) for kind in (~wide, wide)]  # measured / predicted
        intervals = [[round(float(end), 4) for end in np.quantile(some, _QUANTILES)] for some in ratios]
        return {"parameters": [round(float(value), 4) for value in x], "intervals": intervals}

    return {
        "source": source,
        "points": len(points),
        "names": list(NAMES),
        "levels": list(LEVELS),
        "all": entry(every, models != ""),
        "without": {name: entry(x, models != name) for name, x in left.items()},
    }


def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("points", type=Path)
    args = parser.parse_args()
    points, _ = read(args.points)
    digest = hashlib.sha256(args.points.read_bytes()).hexdigest()
    content = fitted(points, f"{args.points.name}, SHA-256 {digest}")
    PATH.write_text(json.dumps(content).replace("]}, ", "]},\n") + "\n")  # a fit a line
    sys.stdout.write(f"{len(points)} points -> {PATH}\n")


if __name__ == "__main__":
    main()
