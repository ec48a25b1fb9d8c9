"""The table of machines, read from ``data/*.yaml``: one file a machine.

Units stand in the names: GB and GB/s are decimal, rates are 10^12 operations a second (a multiplication and an addition
are two), dense. ``link_gbs`` is one direction of one device. ``domain`` is how many devices that link joins.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, ClassVar, Literal

import yaml

from halve.errors import UnknownNameError
from halve.hardware.number import Number

FORMATS = ("tf32", "bf16", "fp16", "fp8", "mxfp8", "fp6", "nvfp4", "mxfp4", "int8", "int4")
# How the rate of a format is called in data sheets; of several the first that is known. Block formats run at the rate
# of their elements. "_fp32acc": GeForce halves the rate where sums are FP32, which is what inference engines ask for.
_RATES: dict[str, tuple[str, ...]] = {
    "bf16": ("bf16", "fp16_fp32acc", "fp16"),
    "fp16": ("fp16_fp32acc", "fp16", "bf16"),
    "fp8": ("fp8_fp32acc", "fp8"),
    "mxfp8": ("fp8_fp32acc", "fp8"),
    "fp6": ("fp6", "fp8"),
    "nvfp4": ("fp4", "nvfp4"),
    "mxfp4": ("fp4", "nvfp4"),
}
_PLAIN = ("name", "vendor", "generation", "kind", "year", "preliminary", "memory_type")
_NUMBERS = (
    "memory_gb",
    "bandwidth_gbs",
    "exp2_per_clk_sm",
    "exp2_tera",
    "sms",
    "clock_ghz",
    "link_gbs",
    "domain",
    "scale_out_gbs",
    "tdp_w",
    "transistors_b",
    "dies",
    "usd_per_hour",
)


@dataclass(frozen=True, slots=True)
class Support:
    """Whether a machine multiplies a format: ``native``, ``emulated`` (weights are expanded first) or ``absent``."""

    level: Literal["native", "emulated", "absent"]
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One device, and the rack it stands in. Units: see the module."""

    name: str
    aliases: tuple[str, ...]
    vendor: str
    generation: str
    kind: str  # datacenter, workstation, consumer, edge, npu, apple, cpu
    year: int | None
    preliminary: bool
    memory_type: str
    memory_gb: Number
    bandwidth_gbs: Number
    dense_tflops: Mapping[str, Number]
    sparse_tflops: Mapping[str, Number]
    measured_tflops: Mapping[str, Number]
    formats: Mapping[str, Support]
    exp2_per_clk_sm: Number
    exp2_tera: Number
    sms: Number
    clock_ghz: Number
    link_gbs: Number
    domain: Number
    scale_out_gbs: Number
    tdp_w: Number
    transistors_b: Number
    dies: Number
    usd_per_hour: Number
    rack: Mapping[str, Number]
    notes: tuple[str, ...]

    columns: ClassVar[tuple[str, ...]] = ("what", "value", "source")

    def rate(self, fmt: str) -> float | None:
        """Dense operations a second in ``fmt``: of the data sheet, else measured; None where neither is known."""
        for rates in (self.dense_tflops, self.measured_tflops):
            for key in _RATES.get(fmt, (fmt,)):
                if (found := rates.get(key)) is not None and found.value is not None:
                    return found.value * 1e12
        return None

    @property
    def exp2_rate(self) -> float | None:
        """FP32 exponentials a second, as published or from units and clock; None where neither is known."""
        if self.exp2_tera.value is not None:
            return self.exp2_tera.value * 1e12
        parts = (self.exp2_per_clk_sm.value, self.sms.value, self.clock_ghz.value)
        if any(part is None for part in parts):
            return None
        per_clock, sms, clock = (part or 0.0 for part in parts)
        return per_clock * sms * clock * 1e9

    @property
    def devices(self) -> int:
        """How many devices the fast link joins; 1 where that is not known."""
        return int(self.domain.value or 1)

    def numbers(self) -> Iterator[tuple[str, Number]]:
        """Every number by name."""
        for name in _NUMBERS:
            yield name, getattr(self, name)
        for group in ("dense_tflops", "sparse_tflops", "measured_tflops", "rack"):
            for key, number in getattr(self, group).items():
                yield f"{group}.{key}", number

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """The cells of `columns`: facts, numbers, formats, notes."""
        yield "vendor, generation, year", f"{self.vendor}, {self.generation}, {self.year or '-'}", ""
        yield "memory", self.memory_type, ""
        for name, number in self.numbers():
            yield name, number.text, number.source or f"unknown: {number.why}"
        for fmt, support in self.formats.items():
            yield fmt, support.level, support.why
        for note in self.notes:
            yield "note", note, ""

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            **{key: getattr(self, key) for key in _PLAIN},
            "aliases": list(self.aliases),
            **{key: getattr(self, key).to_json() for key in _NUMBERS},
            **{
                group: {key: number.to_json() for key, number in getattr(self, group).items()}
                for group in ("dense_tflops", "sparse_tflops", "measured_tflops", "rack")
            },
            "formats": {fmt: {"support": s.level, "why": s.why} for fmt, s in self.formats.items()},
            "notes": list(self.notes),
        }

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> "Machine":
        """From a data file. Raises ValueError, KeyError or TypeError where it is incomplete."""
        groups = ("dense_tflops", "sparse_tflops", "measured_tflops", "rack")
        numbers: dict[str, Any] = {key: Number.parse(content[key]) for key in _NUMBERS}
        tables: dict[str, Any] = {key: {name: Number.parse(n) for name, n in content[key].items()} for key in groups}
        plain: dict[str, Any] = {key: content[key] for key in _PLAIN}
        return cls(
            **plain,
            aliases=tuple(content["aliases"]),
            notes=tuple(content["notes"]),
            formats={fmt: Support(**_support(content["formats"][fmt])) for fmt in FORMATS},
            **numbers,
            **tables,
        )


@cache
def machines() -> Mapping[str, Machine]:
    """Every machine of the data files by name."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    folder = files("halve.hardware").joinpath("data")
    found = (
        Machine.parse(yaml.load(file.read_text("utf-8"), loader))  # noqa: S506 - a safe loader, in C where there is one
        for file in folder.iterdir()
        if file.name.endswith(".yaml")
    )
    return {machine.name: machine for machine in sorted(found, key=lambda m: (m.vendor, m.year or 0, m.name))}


def find(name: str) -> Machine:
    """The machine called ``name``, in any case, or by one of its other names. Raises UnknownNameError."""
    try:
        return _by_name()[_key(name)]
    except KeyError:
        known = [n for machine in machines().values() for n in (machine.name, *machine.aliases)]
        raise UnknownNameError("machine", name, known) from None


@cache
def _by_name() -> Mapping[str, Machine]:
    return {_key(name): machine for machine in machines().values() for name in (machine.name, *machine.aliases)}


def _key(name: str) -> str:
    return name.lower().replace(" ", "-").replace("_", "-")


def _support(content: Mapping[str, Any]) -> dict[str, Any]:
    return {"level": content["support"], "why": content.get("why", "")}
