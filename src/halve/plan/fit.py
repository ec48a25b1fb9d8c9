"""Fit the factors to measured points, and say how far to trust them: `python -m halve.plan.fit POINTS --write`.

The loss is Huber's of log(predicted / measured), with a ridge on every difference between levels, and one, weaker, that
keeps the common factors near where engines usually are. Levenberg-Marquardt with numerical derivatives; deterministic.
Errors are of models that the fit did not see: it is repeated without each of them (models of one shape go together).
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halve.checkpoint.place import sha256
from halve.plan.factors import VARYING, Factors, First, Fitted, level_names, prefill_seconds
from halve.plan.points import Point, read
from halve.plan.prediction import Cases, cases, predict
from halve.plan.roofline import Array

Mask = NDArray[np.bool_]
# Where the fit starts, and is held: factor -> value, standard deviation of its logarithm
_START: dict[str, tuple[float, float]] = {
    "bandwidth": (0.7, 0.5),
    "cache": (1.0, 0.5),
    "experts": (1.0, 0.5),
    "rate": (0.5, 0.5),
    "prefill_rate": (0.5, 0.5),
    "experts_rate": (0.6, 0.5),
    "link": (0.6, 0.7),
    "layer_s": (30e-6, 1.0),
    "mixture": (0.3, 1.0),
    "step_s": (1e-3, 1.0),
    "collective_s": (8e-6, 0.7),
    "interference": (1.0, 0.5),
}
_FIRST: dict[str, tuple[float, float]] = {"seconds": (0.05, 1.0), "prefill": (1.0, 1.0), "queue": (0.3, 1.0)}
_ITERATIONS, _STEP = 25, 1e-4
_HUBER = 0.15  # log residuals beyond this count linearly
_RIDGE = 1.0  # on differences between levels, in units of their squared logarithms
_KINDS = ("online", "offline", "single")


@dataclass(frozen=True, slots=True)
class Problem:
    """Points, their rooflines, and which levels each belongs to (a row of zeros and ones a point)."""

    points: tuple[Point, ...]
    cases: Cases
    levels: tuple[str, ...]
    member: Array

    @classmethod
    def of(cls, points: Sequence[Point]) -> "Problem":
        """The problem that ``points`` pose."""
        of_each = [level_names(p.kind, p.engine, p.machine.generation, p.precision.scheme.name) for p in points]
        names = tuple(sorted({name for names in of_each for name in names}))
        member = np.array([[float(name in mine) for name in names] for mine in of_each])
        return cls(tuple(points), cases(points), names, member)

    def factors(self, x: Array) -> Factors:
        """The factors of each point under the parameters ``x``, all of them logarithms."""
        logs = {name: np.full(len(self.points), x[i]) for i, name in enumerate(_START)}
        for name, deltas in zip(VARYING, x[len(_START) :].reshape(len(VARYING), -1), strict=True):
            logs[name] = logs[name] + self.member @ deltas
        return Factors(**{name: np.exp(value) for name, value in logs.items()})

    def residuals(self, x: Array) -> Array:
        """log(predicted / measured) of each point."""
        found: Array = np.log(predict(self.cases, self.factors(x)) / self.cases.measured)
        return found


def solve(problem: Problem, mask: Mask) -> Array:
    """The parameters that fit the points of ``mask``."""
    start = np.concatenate(
        [np.log([value for value, _ in _START.values()]), np.zeros(len(VARYING) * len(problem.levels))]
    )
    held = np.concatenate(
        [1 / np.array([width for _, width in _START.values()]), np.full(len(start) - len(_START), _RIDGE**0.5)]
    )
    seen = problem.member[mask].sum(0) > 0
    free = np.flatnonzero(np.concatenate([np.ones(len(_START), bool), np.tile(seen, len(VARYING))]))

    return descend(lambda x: problem.residuals(x)[mask], start, held, free)


def descend(residuals: Callable[[Array], Array], start: Array, held: Array, free: NDArray[np.intp]) -> Array:
    """Parameters with the least Huber loss, moving those of ``free`` from ``start``, ``held`` by 1 / deviation."""

    def loss(x: Array) -> tuple[float, Array]:
        r = residuals(x)
        size = np.abs(r)
        huber = np.where(size < _HUBER, r**2 / (2 * _HUBER), size - _HUBER / 2) / _HUBER
        return float(huber.sum() + ((held * (x - start)) ** 2).sum() / 2), r

    x, damping = start, 1.0
    best, r = loss(x)
    for _ in range(_ITERATIONS):
        jacobian = np.empty((len(r), len(free)))
        for column, index in enumerate(free):
            moved = x.copy()
            moved[index] += _STEP
            jacobian[:, column] = (residuals(moved) - r) / _STEP
        weight = 1 / np.maximum(np.abs(r), _HUBER) / _HUBER
        hessian = jacobian.T @ (weight[:, None] * jacobian) + np.diag(held[free] ** 2)
        gradient = jacobian.T @ (weight * r) + (held**2 * (x - start))[free]
        for _ in range(8):
            trial = x.copy()
            trial[free] -= np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)), gradient)
            found, new = loss(trial)
            if found < best:
                break
            damping *= 4
        else:
            break
        settled = best - found < 1e-3 * best
        x, best, r, damping = trial, found, new, max(damping / 5, 1e-4)
        if settled:
            break
    return x


def solve_first(problem: Problem, x: Array, mask: Mask) -> First:
    """How the time to the first token follows from prefilling alone under the factors ``x``."""
    cases = problem.cases
    seen = mask & (cases.ttft > 0)
    alone = prefill_seconds(cases.alone, problem.factors(x))[seen]

    def residuals(logs: Array) -> Array:
        found: Array = np.log(First(*np.exp(logs)).time(alone, cases.batch[seen]) / cases.ttft[seen])
        return found

    start = np.log([value for value, _ in _FIRST.values()])
    held = 1 / np.array([width for _, width in _FIRST.values()])
    return First(*(float(value) for value in np.exp(descend(residuals, start, held, np.arange(len(start))))))


def first_left_out(problem: Problem) -> Array:
    """log(predicted / measured) of measured times to the first token, under fits without the model."""
    keys = np.array([repr(model(point)) for point in problem.points])
    seen = problem.cases.ttft > 0
    found = np.full(len(keys), np.nan)
    for one in sorted(set(keys[seen])):
        out = keys == one
        x = solve(problem, ~out)
        first = solve_first(problem, x, ~out)
        alone = prefill_seconds(problem.cases.alone, problem.factors(x))
        here = out & seen
        found[here] = np.log(first.time(alone, problem.cases.batch)[here] / problem.cases.ttft[here])
    return found[seen]


def left_out(problem: Problem, key: Callable[[Point], object]) -> Array:
    """Residuals of each point under a fit without all points of the same ``key``."""
    keys = np.array([repr(key(point)) for point in problem.points])
    found = np.empty(len(keys))
    for one in sorted(set(keys)):
        out = keys == one
        found[out] = problem.residuals(solve(problem, ~out))[out]
    return found


def both_left_out(problem: Problem) -> Array:
    """Residuals of each point under a fit without its model and without its machine: what a new device meets."""
    models = np.array([repr(model(point)) for point in problem.points])
    names = np.array([point.machine.name for point in problem.points])
    found = np.empty(len(names))
    for one, name in sorted(set(zip(models, names, strict=True))):
        here = (models == one) & (names == name)
        found[here] = problem.residuals(solve(problem, (models != one) & (names != name)))[here]
    return found


def model(point: Point) -> object:
    """What is left out together: models of one shape."""
    return point.shape.layers, point.shape.vocab


def quantiles(residuals: Array) -> tuple[float, float]:
    """p10 and p90 of measured / predicted."""
    low, high = np.quantile(np.exp(-residuals), (0.1, 0.9))
    return float(low), float(high)


def coverage(problem: Problem, residuals: Array) -> dict[str, float]:
    """By kind, the share of points within p10-p90 of the residuals of the other models."""
    keys = np.array([repr(model(point)) for point in problem.points])
    found = {}
    for kind in _KINDS:
        of_kind = problem.cases.kind == kind
        inside = []
        for one in sorted(set(keys[of_kind])):
            here, others = of_kind & (keys == one), of_kind & (keys != one)
            low, high = quantiles(residuals[others])
            ratio = np.exp(-residuals[here])
            inside += list((ratio >= low) & (ratio <= high))
        found[kind] = float(np.mean(inside))
    return found


def fit(points: Sequence[Point], about: dict[str, object]) -> tuple[Fitted, Problem, Array, Array, Array]:
    """The factors; the problem; residuals left out by model, by machine, and of the first token by model."""
    problem = Problem.of(points)
    x = solve(problem, np.ones(len(points), bool))
    by_model, by_machine = left_out(problem, model), left_out(problem, lambda point: point.machine.name)
    kind = problem.cases.kind
    deltas = x[len(_START) :].reshape(len(VARYING), -1)
    intervals = {k: quantiles(by_model[kind == k]) for k in _KINDS}
    first = first_left_out(problem)
    neither = both_left_out(problem)
    wider = {k: quantiles(neither[kind == k]) for k in _KINDS}
    unmeasured = {k: (min(wider[k][0], intervals[k][0]), max(wider[k][1], intervals[k][1])) for k in _KINDS}
    intervals["first"] = unmeasured["first"] = quantiles(first)
    found = Fitted(
        {name: float(np.exp(x[i])) for i, name in enumerate(_START)},
        solve_first(problem, x, np.ones(len(points), bool)),
        {
            level: {name: float(np.exp(deltas[j, i])) for j, name in enumerate(VARYING)}
            for i, level in enumerate(problem.levels)
        },
        intervals,
        unmeasured,
        {k: tuple(sorted({p.machine.name for p in points if p.kind == k})) for k in _KINDS},
        about,
    )
    return found, problem, by_model, by_machine, first


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit and report; with ``--write`` also replace the shipped factors."""
    parser = argparse.ArgumentParser(prog="python -m halve.plan.fit", description=__doc__)
    parser.add_argument("points", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    points = [point for point in read(options.points) if isinstance(point, Point)]
    digest = sha256(options.points, options.points.stat().st_size)
    about: dict[str, object] = {"made_by": "python -m halve.plan.fit", "points_sha256": digest, "points": len(points)}
    found, problem, by_model, by_machine, first = fit(points, about)
    lines = []
    for name, residuals in (("left out by model", by_model), ("left out by machine", by_machine)):
        for kind in _KINDS:
            r = residuals[problem.cases.kind == kind]
            lines.append(
                f"{name}: {kind:8s} {len(r):4d} points, median error {np.median(np.abs(np.expm1(r))):.1%}, "
                f"within 2x {np.mean(np.abs(r) <= np.log(2)):.1%}"
            )
    lines.append(
        f"left out by model: first token {len(first)} points, median error {np.median(np.abs(np.expm1(first))):.1%}, "
        f"within 2x {np.mean(np.abs(first) <= np.log(2)):.1%}"
    )
    lines += [f"p10-p90 holds {kind}: {share:.1%}" for kind, share in coverage(problem, by_model).items()]
    sys.stdout.write("\n".join(lines) + "\n")
    if options.write:
        path = Path(__file__).with_name("data") / "factors.json"
        path.write_text(json.dumps(found.to_json(), indent=1) + "\n", encoding="utf-8")
        sys.stdout.write(f"written: {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
