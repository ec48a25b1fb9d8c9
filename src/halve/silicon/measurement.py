"""What a unit costs in gates: made, proven and measured; and the units that are measured for the package."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from typing import Any

from halve.silicon.liberty import NAND2, Library
from halve.silicon.samples import Samples, load
from halve.silicon.stimuli import stimuli
from halve.silicon.synthesis import synthesise
from halve.silicon.toggles import energy
from halve.silicon.unit import Unit, unit
from halve.silicon.verify import require, verify

CAVEAT = (
    "Combinational logic alone: no wires, no clock, no registers, no data movement. "
    "Ratios mean something; these are not picojoules or square micrometres."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One design. Area is in NAND2 equivalents, depth in gates, energy in inverter inputs switched an operation."""

    unit: str
    format: str
    subnormals: bool
    area: float
    cells: int
    depth: int
    energy: float  # of what differs from one operation to the next
    energy_glitching: float  # of every change on the way there
    data: str  # what the operands of the energy are
    vectors: int
    mismatches: int

    @property
    def design(self) -> Unit:
        """The unit that was measured."""
        return unit(self.unit, self.format, subnormals=self.subnormals)

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Measurement":
        """The inverse of :meth:`to_json`."""
        return cls(**{field.name: row[field.name] for field in fields(cls)})


def measure(design: Unit, library: Library, samples: Samples) -> Measurement:
    """Make, prove and measure one unit.

    Raises UnsupportedError where the tools are not installed or fail, and VerifyError where one vector comes out wrong:
    no such design has a measurement.
    """
    netlist = synthesise(design, library)
    verdict = verify(design, netlist)
    require(design, verdict)
    switched = energy(netlist, stimuli(design, samples))
    return Measurement(
        unit=design.name,
        format=design.element.name,
        subnormals=design.subnormals,
        area=round(netlist.area / library.smallest(NAND2).area, 2),
        cells=len(netlist.cells),
        depth=netlist.depth,
        energy=round(switched.settled, 2),
        energy_glitching=round(switched.glitching, 2),
        data=samples.name,
        vectors=verdict.vectors,
        mismatches=verdict.mismatches,
    )


def measure_all(
    designs: Sequence[Unit], library: Library, *, data: str = "gaussian", at_once: int | None = None
) -> tuple[Measurement, ...]:
    """All of ``designs``, in their order, ``at_once`` (all cores) at a time: Yosys runs in processes of its own.

    Raises like :func:`measure`.
    """
    samples = load(data)
    # The largest take longest: begun first, they do not run alone at the end.
    order = sorted(range(len(designs)), key=lambda i: -designs[i].products * designs[i].element.bits ** 2)
    with ThreadPoolExecutor(at_once or os.cpu_count()) as pool:
        futures = {i: pool.submit(measure, designs[i], library, samples) for i in order}
        try:
            return tuple(futures[i].result() for i in range(len(designs)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
