"""Measured ratios beside the rule of thumb and beside published figures."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from halve.silicon.measurement import CAVEAT, Measurement
from halve.silicon.published import FIGURES, RULE, RULE_OF_THUMB, Figure
from halve.silicon.record import Record

_BASE = "fp32"
LITERATURE_NOTE = f"{CAVEAT}\nPublished figures count other designs, processes and surroundings: see each source."


@dataclass(frozen=True, slots=True)
class Compared:
    """A measurement, and how many of it one unit for FP32 would make."""

    measurement: Measurement
    area_ratio: float | None  # area of FP32's over this one's
    energy_ratio: float | None

    @property
    def rule(self) -> int | None:
        """What the rule of thumb says of `area_ratio`."""
        return RULE_OF_THUMB.get(self.measurement.format)

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return self.measurement.to_json() | {
            "area_ratio": self.area_ratio,
            "energy_ratio": self.energy_ratio,
            "rule_of_thumb": self.rule,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """The table of measurements."""

    compared: tuple[Compared, ...]

    columns: ClassVar[tuple[str, ...]] = (
        "unit",
        "format",
        "NAND2",
        "area ratio",
        RULE,
        "energy",
        "energy ratio",
        "with glitches",
        "depth",
        "cells",
        "vectors",
        "wrong",
    )

    @property
    def note(self) -> str:
        """What stands under every table."""
        return (
            f"{CAVEAT}\nNAND2: area in 2-input NANDs. Ratios: of FP32's in the same unit; {RULE}: what "
            "is often quoted. energy: inverter inputs switched an operation, without glitches; with them: if each gate "
            "took one step of time, which is more than real circuits do. wrong: of the vectors."
        )

    def rows(self) -> Iterator[tuple[str | int | float | None, ...]]:
        """The cells of `columns`."""
        for found in self.compared:
            m = found.measurement
            yield (
                m.unit if m.subnormals else f"{m.unit}, no subnormals",
                m.format,
                m.area,
                ratio(found.area_ratio),
                ratio(found.rule),
                m.energy,
                ratio(found.energy_ratio),
                m.energy_glitching,
                m.depth,
                m.cells,
                m.vectors,
                m.mismatches,
            )

    def to_json(self) -> list[dict[str, Any]]:
        """One object a measurement."""
        return [found.to_json() for found in self.compared]


def ratio(value: float | None) -> str | None:
    """Such as 1/4.1; None where there is nothing to compare with."""
    if value is None:
        return None
    return "1" if value == 1 else f"1/{value:.1f}" if value < 10 and value != int(value) else f"1/{value:.0f}"


def compare(measurements: Sequence[Measurement], bases: Iterable[Measurement]) -> Comparison:
    """``measurements``, each beside that of FP32 in the same unit, out of ``bases``: the last, of one library."""
    found = {m.unit: m for m in bases if m.format == _BASE and m.subnormals}
    return Comparison(tuple(_compared(found, m) for m in measurements))


def _compared(bases: dict[str, Measurement], m: Measurement) -> Compared:
    # FP32 needs no scales and has no accumulator of fixed point: there it is the plain unit that is compared with.
    plain = "mac" if m.unit == "fixed_mac" else m.unit.split("_")[0]
    base = bases.get(m.unit, bases.get(plain))
    if base is None:
        return Compared(m, None, None)
    energy = round(base.energy / m.energy, 3) if m.energy and m.data == base.data else None
    return Compared(m, round(base.area / m.area, 3), energy)


@dataclass(frozen=True, slots=True)
class Literature:
    """Published figures, and what is measured here of the same."""

    pairs: tuple[tuple[Figure, float | None], ...]

    columns: ClassVar[tuple[str, ...]] = (
        "unit",
        "format",
        "relative to",
        "published",
        "here",
        "what was counted",
        "source",
    )

    def rows(self) -> Iterator[tuple[str | None, ...]]:
        """The cells of `columns`."""
        for figure, here in self.pairs:
            yield (
                figure.unit,
                figure.format,
                figure.reference,
                f"{1 / figure.ratio:.3f}",
                None if here is None else f"{1 / here:.3f}",
                figure.counted,
                figure.source,
            )

    def to_json(self) -> list[dict[str, Any]]:
        """One object a figure."""
        names = ("unit", "format", "relative_to", "published", "here", "counted", "source")
        return [dict(zip(names, row, strict=True)) for row in self.rows()]


def literature(record: Record) -> Literature:
    """All figures, each beside the measurements of ``record``."""
    return Literature(tuple((figure, _measured(record, figure)) for figure in FIGURES))


def _measured(record: Record, figure: Figure) -> float | None:
    reference, _, elsewhere = figure.reference.partition(" in ")
    one = record.find(figure.unit, figure.format)
    other = record.find(elsewhere or figure.unit, reference)
    if one is None or other is None:
        return None
    return other.energy / one.energy if figure.counted.startswith("energy") else other.area / one.area
