"""Which format would you build: quality of given data for the area of the tile that multiplies it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from halve.silicon.measurement import CAVEAT, Measurement
from halve.silicon.quality import bits_per_number, sqnr
from halve.silicon.record import Record
from halve.silicon.samples import Samples

TILES = ("dot16", "dot16_mx", "dot16_nvfp4")


@dataclass(frozen=True, slots=True)
class Choice:
    """A tile, and what it keeps of the data. Area and energy are a product's share of the tile."""

    unit: str
    format: str
    bits: float  # of a number in memory, scales included
    sqnr: float  # dB of one operand
    area: float
    energy: float
    best: bool  # no other is at least as good for at most the area and the bits

    @property
    def per_area(self) -> float:
        """DB for a NAND2."""
        return self.sqnr / self.area


@dataclass(frozen=True, slots=True)
class Choices:
    """All tiles, the smallest first."""

    data: str
    choices: tuple[Choice, ...]

    columns: ClassVar[tuple[str, ...]] = (
        "tile",
        "format",
        "bits",
        "SQNR dB",
        "NAND2 a product",
        "dB/NAND2",
        "energy",
        "best",
    )

    @property
    def note(self) -> str:
        """What stands under the table."""
        return (
            f"{CAVEAT}\nSQNR of one operand on {self.data} data, with the scale of a row of 4096 (dot16), of 32 (mx) "
            "or 16 numbers (nvfp4). best: no other tile keeps as much with neither more gates nor more bits in memory."
        )

    def rows(self) -> Iterator[tuple[str | float | None, ...]]:
        """The cells of `columns`."""
        for c in self.choices:
            share = (round(c.area, 1), round(c.per_area, 3), round(c.energy, 1))
            yield c.unit, c.format, c.bits, round(c.sqnr, 2), *share, "*" if c.best else None

    def to_json(self) -> list[dict[str, Any]]:
        """One object a tile."""
        names = ("unit", "format", "bits", "sqnr_db", "area_per_product", "energy_per_product", "best")
        return [
            dict(zip(names, (c.unit, c.format, c.bits, c.sqnr, c.area, c.energy, c.best), strict=True))
            | {"db_per_nand2": c.per_area, "data": self.data}
            for c in self.choices
        ]


def choices(record: Record, samples: Samples) -> Choices:
    """Every tile of 16 in ``record`` on ``samples``."""
    found = [m for m in record.measurements if m.unit in TILES]
    points = [(m, bits_per_number(m.design), sqnr(m.design, samples)) for m in found]
    rows = [_choice(m, bits, quality, points) for m, bits, quality in points]
    return Choices(samples.name, tuple(sorted(rows, key=lambda c: c.area)))


def _choice(m: Measurement, bits: float, quality: float, points: list[tuple[Measurement, float, float]]) -> Choice:
    products = m.design.products
    beaten = any(
        other is not m
        and (q, -o_bits, -other.area) != (quality, -bits, -m.area)
        and q >= quality
        and o_bits <= bits
        and other.area <= m.area
        for other, o_bits, q in points
    )
    return Choice(m.unit, m.format, bits, quality, m.area / products, m.energy / products, not beaten)
