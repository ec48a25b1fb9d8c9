"""Published speeds of whole models on NPUs, out of a csv: what each row ran, or why it cannot be told.

Columns: kind, platform, model, input, dtype, cores, metric, value, evidence. Rows of kind ``cnn`` are speeds of one run
of one model; others (llm, matmul) are not read. One rule drops rows as impossible: faster than the array can multiply
on the one core that they say. Seconds come from fps, latency_ms, and rtf of as many seconds of sound
as the input says.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import cast

from halve.edge.layers import Dtype
from halve.edge.models import published
from halve.edge.targets import WIDTHS, Target, find
from halve.errors import CheckpointError, UnknownNameError

COLUMNS = ("kind", "platform", "model", "input", "dtype", "cores", "metric", "value", "evidence")


@dataclass(frozen=True, slots=True)
class Point:
    """A measurement: ``seconds`` of one run."""

    row: str
    model: str
    target: Target
    dtype: Dtype
    seconds: float


@dataclass(frozen=True, slots=True)
class Unknown:
    """A row that is not predicted, and why."""

    row: str
    why: str


def read(path: Path) -> tuple[list[Point], list[Unknown]]:
    """The rows of the csv at ``path``. Raises CheckpointError where a column is missing or it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if missing := sorted(set(COLUMNS) - set(reader.fieldnames or ())):
                raise CheckpointError(f"{path}: no column {missing[0]}", hint=f"columns: {', '.join(COLUMNS)}")
            rows = [row for row in reader if row["kind"] == "cnn"]
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: {error}", hint="a csv in UTF-8") from None
    found = list(_points(rows))
    return [one for one in found if isinstance(one, Point)], [one for one in found if isinstance(one, Unknown)]


def _points(rows: Iterable[dict[str, str]]) -> Iterator[Point | Unknown]:
    for row in rows:
        name = f"{row['platform']} {row['model']} {row['dtype']}"
        try:
            yield _point(row, name)
        except (UnknownNameError, ValueError) as error:
            yield Unknown(name, str(error))


def _point(row: dict[str, str], name: str) -> Point:
    """Raises UnknownNameError or ValueError for what is not known."""
    if row["model"] not in published():
        raise ValueError("no layers of this model")
    if row["evidence"].startswith("COMPILER"):
        raise ValueError("an estimate, no measurement")
    if row["cores"] != "1":
        raise ValueError(f"on {row['cores']} cores: one is predicted")
    if row["dtype"] not in WIDTHS:
        raise ValueError(f"dtype {row['dtype']!r}, not one of {', '.join(WIDTHS)}")
    value = float(row["value"])
    if not isfinite(value) or value <= 0:
        raise ValueError(f"value {value}")
    point = Point(name, row["model"], find(row["platform"]), cast(Dtype, row["dtype"]), _seconds(row, value))
    least = sum(count * layer.macs for count, layer in published()[point.model]) / point.target.macs(point.dtype)
    if point.seconds < least:
        raise ValueError(f"{point.seconds * 1e3:.3g} ms, below the {least * 1e3:.3g} ms of all products on one core")
    return point


def _seconds(row: dict[str, str], value: float) -> float:
    match row["metric"]:
        case "fps":
            return 1 / value
        case "latency_ms":
            return value / 1000
        case "rtf" if sound := re.match(r"(\d+)s audio", row["input"]):
            return value * int(sound[1])
        case metric:
            raise ValueError(f"metric {metric!r} of {row['input']}")
