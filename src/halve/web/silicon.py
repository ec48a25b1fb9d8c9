"""Data of the page Silicon: the packaged measurements, and what each format keeps of data."""

from functools import cache
from typing import Any, Literal

from fastapi import APIRouter

from halve.silicon.comparison import LITERATURE_NOTE, compare, literature
from halve.silicon.measurement import CAVEAT, Measurement
from halve.silicon.pareto import choices
from halve.silicon.quality import bits_per_number, sqnr
from halve.silicon.record import packaged
from halve.silicon.samples import Samples, load
from halve.silicon.unit import UNITS

router = APIRouter(prefix="/silicon")


@router.get("")
@cache
def silicon(data: Literal["gaussian", "heavy"] = "gaussian") -> dict[str, Any]:
    """Every measured unit with its ratios, bits in memory and SQNR; ``best`` of tiles: no other beats them."""
    record, samples = packaged(), load(data)
    quality = _quality(record.measurements, samples)
    best = {(choice.unit, choice.format): choice.best for choice in choices(record, samples).choices}
    rows = []
    for one in compare(record.measurements, record.measurements).compared:
        measured, design = one.measurement, one.measurement.design
        more = {
            "bits": bits_per_number(design),
            "sqnr_db": quality.get((measured.format, design.scale)) if measured.subnormals else None,
            "area_per_product": measured.area / design.products,
            "energy_per_product": measured.energy / design.products,
            "best": best.get((measured.unit, measured.format)),
        }
        rows.append(one.to_json() | more)
    return {
        "data": samples.name,
        "caveat": CAVEAT,
        "units": {name: shape.about for name, shape in UNITS.items()},
        "measured": rows,
        "literature": literature(record).to_json(),
        "literature_note": LITERATURE_NOTE,
        "vectors": record.vectors,
        "mismatches": record.mismatches,
    }


def _quality(measurements: tuple[Measurement, ...], samples: Samples) -> dict[tuple[str, str | None], float]:
    """SQNR by format and scale: all that it follows from."""
    designs = {(m.format, m.design.scale): m.design for m in measurements if m.subnormals}
    return {key: sqnr(design, samples) for key, design in designs.items()}
