"""How far the speeds of NPUs that `halve edge check` estimates are off the published ones.

    python benchmarks/edge.py --points FILE [--json]               # nothing is fitted
    python benchmarks/edge.py --points FILE --families [--json]    # refitted without each family: all YOLO at once ...

A model's error is of the shipped factors that were fitted without it. FILE is a csv with the columns that
`halve.edge.points` names. Rows that are not predicted are listed with --json, and counted.
"""

import argparse
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np

from halve.edge import factors
from halve.edge.cost import Array
from halve.edge.fit import Problem
from halve.edge.points import Point, read
from measure import Figure

GOAL, STRETCH = 0.30, 0.20
COVERED = (0.7, 0.9)


def family(model: str) -> str:
    """yolov5s-seg -> yolo, resnet50-v2-7 -> resnet."""
    found = re.match(r"yolo|[A-Za-z]+", model)
    return found[0].lower() if found else model


def unseen(points: list[Point]) -> tuple[Array, Array]:
    """log(predicted / measured) under factors that have not seen the model, and whether the interval holds it."""
    problem = Problem(points)
    residuals, inside = np.zeros(len(points)), np.zeros(len(points))
    for name in {point.model for point in points}:
        fit = factors.fit(without=name)
        mine = np.array([point.model == name for point in points])
        residuals[mine] = problem.residuals(np.array(fit.parameters))[mine]
        for index in np.flatnonzero(mine):
            low, high = fit.interval(points[index].dtype)
            inside[index] = low <= np.exp(-residuals[index]) <= high
    return residuals, inside


def refitted(points: list[Point]) -> Array:
    """The same, under factors that have not seen anything of the model's family."""
    problem = Problem(points)
    names = np.array([family(point.model) for point in points])
    found = np.zeros(len(points))
    for name in sorted(set(names)):
        found[names == name] = problem.residuals(problem.solve(names != name))[names == name]
    return found


def fps_errors(residuals: Array) -> Array:
    """|predicted / measured - 1| of frames a second."""
    found: Array = np.abs(np.expm1(-residuals))
    return found


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=Path, required=True)
    parser.add_argument("--families", action="store_true", help="refit without each family instead")
    parser.add_argument("--json", action="store_true", dest="as_json")
    args = parser.parse_args()
    points, unknown = read(args.points)
    if args.as_json:
        for why, count in Counter((row.row, row.why) for row in unknown).items():
            print(json.dumps({"unknown": why[0], "why": why[1], "rows": count}))
    counts = {"rows_predicted": len(points), "rows_unknown": len(unknown)}
    for metric, count in counts.items():
        Figure(metric=metric, value=count, unit="rows", goal="counted", met=True).print(as_json=args.as_json)
    if not points:
        return
    if args.families:
        show("fps_error_families", refitted(points), as_json=args.as_json)
        return
    residuals, inside = unseen(points)
    show("fps_error", residuals, as_json=args.as_json)
    for kind in sorted({(point.target.name, point.dtype) for point in points}):
        mine = np.array([(point.target.name, point.dtype) == kind for point in points])
        name = "_".join(("fps_error", *kind)).lower()
        show(f"{name}[{mine.sum()}]", residuals[mine], as_json=args.as_json)
    covered, (low, high) = float(inside.mean()), COVERED
    met = low <= covered <= high
    Figure(metric="fps_coverage", value=covered, unit="", goal=f"{low}-{high}", met=met).print(as_json=args.as_json)


def show(metric: str, residuals: Array, *, as_json: bool) -> None:
    """Print a median error."""
    value = float(np.median(fps_errors(residuals)))
    goal = f"<= {GOAL} (stretch {STRETCH})"
    Figure(metric=metric, value=value, unit="", goal=goal, met=value <= GOAL).print(as_json=as_json)


if __name__ == "__main__":
    main()
