"""All machines at a glance: memory, bandwidth, dense rates, and which formats they multiply."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from halve.hardware.number import Number
from halve.hardware.table import Machine, machines

_SHOWN = ("bf16", "fp8", "mxfp8", "nvfp4", "mxfp4", "int8", "int4")
_SIGNS = {"native": "yes", "emulated": "(w)", "absent": None}


@dataclass(frozen=True, slots=True)
class Overview:
    """The table that `halve hardware` prints."""

    machines: tuple[Machine, ...]

    columns: ClassVar[tuple[str, ...]] = ("machine", "GB", "GB/s", "bf16 T", "fp8 T", "fp4 T", "W", *_SHOWN)
    legend: ClassVar[str] = (
        "T: dense 10^12 operations a second. yes: multiplied in hardware. (w): weights are stored so and expanded "
        "first: smaller, no faster arithmetic. -: not there, or not known. `halve hardware NAME` gives every source."
    )

    def rows(self) -> Iterator[tuple[str | None, ...]]:
        """The cells of `columns`."""
        for machine in self.machines:
            name = machine.name + (" (preliminary)" if machine.preliminary else "")
            rates = (_tera(machine.rate(fmt)) for fmt in ("bf16", "fp8", "nvfp4"))
            signs = (_SIGNS[machine.formats[fmt].level] for fmt in _SHOWN)
            facts = (_shown(n) for n in (machine.memory_gb, machine.bandwidth_gbs))
            yield name, *facts, *rates, _shown(machine.tdp_w), *signs

    def to_json(self) -> list[Mapping[str, Any]]:
        """As JSON-ready values."""
        return [machine.to_json() for machine in self.machines]


def overview() -> Overview:
    """Every machine of the data files."""
    return Overview(tuple(machines().values()))


def _shown(number: Number) -> str | None:
    return None if number.value is None else number.text


def _tera(rate: float | None) -> str | None:
    return None if rate is None else f"{rate / 1e12:g}"
