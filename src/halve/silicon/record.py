"""The packaged measurements, and what made them: library, tools, script, data."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from halve.silicon.liberty import Library
from halve.silicon.measurement import CAVEAT, Measurement
from halve.silicon.synthesis import SCRIPT, tools
from halve.silicon.unit import Unit

_FILE = "silicon.json"


@dataclass(frozen=True, slots=True)
class Provenance:
    """How measurements were made: with equal provenance they are equal."""

    library: str
    library_sha256: str
    tools: dict[str, str]
    script: str


@dataclass(frozen=True, slots=True)
class Record:
    """Measurements and their provenance."""

    made: Provenance
    measurements: tuple[Measurement, ...]

    def find(self, unit: str, fmt: str, *, subnormals: bool = True) -> Measurement | None:
        """The measurement of a unit, if there is one."""
        wanted = (unit, fmt, subnormals)
        return next((m for m in self.measurements if (m.unit, m.format, m.subnormals) == wanted), None)

    def of(self, designs: Iterable[Unit]) -> tuple[Measurement, ...]:
        """Those of ``designs`` that are measured, in their order."""
        found = (self.find(d.name, d.element.name, subnormals=d.subnormals) for d in designs)
        return tuple(m for m in found if m is not None)

    @property
    def vectors(self) -> int:
        """Vectors that all designs together were tried on."""
        return sum(m.vectors for m in self.measurements)

    @property
    def mismatches(self) -> int:
        """Vectors that came out wrong: a record holds no such design."""
        return sum(m.mismatches for m in self.measurements)

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "caveat": CAVEAT,
            "made": asdict(self.made),
            "measurements": [m.to_json() for m in self.measurements],
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Record":
        """The inverse of :meth:`to_json`."""
        rows = tuple(Measurement.from_json(row) for row in content["measurements"])
        return cls(Provenance(**content["made"]), rows)


def record(library: Library, measurements: Sequence[Measurement]) -> Record:
    """``measurements`` that have just been made with ``library``."""
    return Record(Provenance(library.path.name, library.sha256, tools(), SCRIPT), tuple(measurements))


def text(found: Record) -> str:
    """The packaged file: a line a measurement, so that a change of one shows as one."""
    content = found.to_json()
    rows = ",\n  ".join(json.dumps(row) for row in content.pop("measurements"))
    head = json.dumps(content, indent=1).removesuffix("\n}")
    return f'{head},\n "measurements": [\n  {rows}\n ]\n}}\n'


@cache
def packaged() -> Record:
    """What comes with halve; `benchmarks/silicon.py` measures it again."""
    content = files("halve.silicon").joinpath("data", _FILE).read_text("utf-8")
    return Record.from_json(json.loads(content))
