"""How far NPUs stay behind published rates: ``data/factors.json``, written by `halve.edge.fit`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from halve.edge.cost import NAMES, Factors
from halve.edge.layers import Dtype
from halve.edge.targets import WIDTHS, targets

PATH = Path(__file__).with_name("data") / "factors.json"
LEVELS = (*targets(), "16 bits")  # what factors differ by


@dataclass(frozen=True, slots=True)
class Fit:
    """Parameters of one fit.

    ``intervals``: the 10th and 90th percentile of measured / predicted seconds of models that it has not seen, in INT8
    and in 16 bits.
    """

    parameters: tuple[float, ...]
    intervals: tuple[tuple[float, float], tuple[float, float]]

    def interval(self, dtype: Dtype) -> tuple[float, float]:
        """That of models which run in ``dtype``."""
        return self.intervals[WIDTHS[dtype] - 1]

    def factors(self, target: str, dtype: Dtype) -> Factors:
        """Those of layers in ``dtype`` on ``target``."""
        x = np.array(self.parameters)
        logs = x[: len(NAMES)] + x[len(NAMES) :].reshape(len(NAMES), -1) @ np.array(member(target, dtype))
        return Factors(**{name: float(np.exp(value)) for name, value in zip(NAMES, logs, strict=True)})


def member(target: str, dtype: Dtype) -> list[float]:
    """One for each of `LEVELS` that a run belongs to."""
    return [float(level == target or (level == LEVELS[-1] and WIDTHS[dtype] == 2)) for level in LEVELS]


@cache
def _content() -> Mapping[str, Any]:
    content: Mapping[str, Any] = json.loads(PATH.read_text())
    return content


def source() -> str:
    """What the factors were fitted to."""
    return f"{_content()['points']} rows of {_content()['source']}"


def fit(without: str = "") -> Fit:
    """The shipped fit, or the one that has not seen the model ``without``, where there is one."""
    content = _content()
    found = content["without"].get(without, content["all"])
    narrow, wide = (tuple(ends) for ends in found["intervals"])
    return Fit(tuple(found["parameters"]), (narrow, wide))
