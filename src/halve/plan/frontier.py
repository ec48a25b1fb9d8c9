"""Throughput of a device over speed for its users; and how two machines compare along it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from halve.hardware import Machine
from halve.models.shape import Shape
from halve.plan.grid import grid
from halve.plan.precision import Precision
from halve.plan.request import Request
from halve.plan.roofline import Array

_NAMES = ("tokens_per_second_per_user", "old", "new", "ratio")
INTERACTIVITY = (20, 50, 100, 150)  # tokens a second that a user sees


@dataclass(frozen=True, slots=True)
class Frontier:
    """The best of every cut and batch: ``per_device`` tokens a second where each user sees ``per_user``."""

    machine: Machine
    precision: Precision
    per_user: Array
    per_device: Array

    def at(self, per_user: float) -> float | None:
        """Tokens a second of a device where users see at least ``per_user``; None where none do."""
        able = self.per_device[self.per_user >= per_user]
        return float(able.max()) if able.size else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many times the tokens of ``old`` a device of ``new`` writes, by what users see; None where either cannot.

    Of a million tokens, the price falls by this factor divided by that between the prices of an hour.
    """

    old: Frontier
    new: Frontier

    def rows(self) -> list[tuple[int, float | None, float | None, float | None]]:
        """Tokens a second of a user; of a device, old and new; their ratio."""
        found = []
        for speed in INTERACTIVITY:
            old, new = self.old.at(speed), self.new.at(speed)
            found.append((speed, old, new, new / old if old and new else None))
        return found

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "old": self.old.machine.name,
            "new": self.new.machine.name,
            "rows": [
                dict(zip(("tokens_per_second_per_user", "old", "new", "ratio"), row, strict=True))
                for row in self.rows()
            ],
        }


def frontier(shape: Shape, machine: Machine, precision: Precision, request: Request) -> Frontier | None:
    """The frontier of a machine; None where the model does not fit or a number is not known."""
    found = grid(shape, machine, precision, request)
    if found is None:
        return None
    per_user, per_device = 1 / found.tpot, found.rate / found.devices
    order = np.argsort(-per_user)
    best = np.maximum.accumulate(per_device[order])
    keep = np.concatenate([[True], best[1:] > best[:-1]])
    return Frontier(machine, precision, per_user[order][keep], best[keep])


def frontiers(shape: Shape, pairs: Sequence[tuple[Machine, Precision]], request: Request) -> list[Frontier]:
    """Those that there are."""
    found = (frontier(shape, machine, precision, request) for machine, precision in pairs)
    return [one for one in found if one is not None]
