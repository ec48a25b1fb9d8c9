"""What there is to know about a format, computed from its row: fields, limits, special codes, every value."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import frexp, isfinite
from typing import Any, ClassVar

from halve.formats.table import FORMATS, Codebook, Float, Format, Int, get
from halve.formats.value import Kind, fields, kind, ranks, value

LISTED_BITS = 8  # formats up to this width are listed in full, wider ones by their corners


@dataclass(frozen=True, slots=True)
class CodeValue:
    """One code of a format and the number it stands for."""

    code: int
    digits: int  # of the hexadecimal code
    fields: str
    kind: Kind
    value: float
    note: str

    @property
    def hex(self) -> str:
        """The code in hexadecimal, as wide as the format needs."""
        return f"0x{self.code:0{self.digits}x}"

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "code": self.code,
            "hex": self.hex,
            "fields": self.fields,
            "kind": self.kind,
            "value": json_number(self.value),
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class FormatInfo:
    """One format. A fact that does not apply (the exponent of an integer) is None."""

    format: Format

    columns: ClassVar[tuple[str, ...]] = ("code", "bits", "kind", "value", "hex float", "note")

    @property
    def name(self) -> str:
        """Name in the table of formats."""
        return self.format.name

    @property
    def family(self) -> str:
        """``float``, ``integer`` or ``codebook``."""
        return {Float: "float", Int: "integer", Codebook: "codebook"}[type(self.format)]

    @property
    def signed(self) -> bool:
        """Whether there are negative numbers."""
        return self.format.min < 0

    @property
    def exponent(self) -> int | None:
        """Exponent bits."""
        return self.format.exponent if isinstance(self.format, Float) else None

    @property
    def mantissa(self) -> int | None:
        """Mantissa bits, the implied one not counted."""
        return self.format.mantissa if isinstance(self.format, Float) else None

    @property
    def bias(self) -> int | None:
        """Exponent bias."""
        return self.format.bias if isinstance(self.format, Float) else None

    @property
    def smallest_normal(self) -> float | None:
        """Smallest positive number of full precision."""
        return self.format.smallest_normal if isinstance(self.format, Float) else None

    @property
    def smallest_subnormal(self) -> float | None:
        """Smallest positive number; None where there are no subnormals."""
        return self.format.smallest if isinstance(self.format, Float) and self.format.has_zero else None

    @property
    def epsilon(self) -> float | None:
        """Distance from 1 to the next larger number; None for codebooks."""
        match self.format:
            case Float():
                return 2.0**-self.format.mantissa
            case Int():
                return 1.0
            case Codebook():
                return None

    @property
    def has_inf(self) -> bool:
        """Whether there is an infinity."""
        return isinstance(self.format, Float) and self.format.inf_code is not None

    @property
    def has_nan(self) -> bool:
        """Whether there is a NaN."""
        return self.format.nan_code is not None

    @property
    def finite_values(self) -> int:
        """Number of distinct finite values, +0 and -0 counted once."""
        return len(ranks(self.format))

    def codes(self) -> Iterator[CodeValue]:
        """Every code for formats of at most 8 bits, the corners of wider ones, in code order."""
        notes = self._notes()
        for code in range(1 << self.format.bits) if self.format.bits <= LISTED_BITS else sorted(notes):
            yield CodeValue(
                code=code,
                digits=-(-self.format.bits // 4),
                fields=fields(self.format, code),
                kind=kind(self.format, code),
                value=value(self.format, code),
                note=notes.get(code, ""),
            )

    def rows(self) -> Iterator[tuple[str | None, ...]]:
        """The cells of `columns`, a row for each code."""
        for c in self.codes():
            yield c.hex, c.fields, c.kind, short(c.value), hex_float(c.value), c.note

    def facts(self) -> dict[str, Any]:
        """Everything but the codes, JSON-ready."""
        return {
            "name": self.name,
            "family": self.family,
            "bits": self.format.bits,
            "storage_bits": self.format.storage_bits,
            "signed": self.signed,
            "exponent": self.exponent,
            "mantissa": self.mantissa,
            "bias": self.bias,
            "max": self.format.max,
            "min": self.format.min,
            "smallest_normal": self.smallest_normal,
            "smallest_subnormal": self.smallest_subnormal,
            "epsilon": self.epsilon,
            "inf": self.has_inf,
            "nan": self.has_nan,
            "finite_values": self.finite_values,
            "spec": self.format.spec,
        }

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values, codes included."""
        return self.facts() | {"codes": [code.to_json() for code in self.codes()]}

    def _repr_html_(self) -> str:
        cells = "".join(f"<tr><th>{key}</th><td>{fact}</td></tr>" for key, fact in self.facts().items())
        return f"<table>{cells}</table>"

    def _notes(self) -> dict[int, str]:
        fmt = self.format
        match fmt:
            case Codebook():
                return {0: "most negative", len(fmt.values) - 1: "largest"}
            case Int():
                return {0: "zero", int(fmt.max): "largest"} | (
                    {1 << fmt.bits - 1: "most negative"} if fmt.signed else {}
                )
            case Float():
                return self._float_notes(fmt)

    @staticmethod
    def _float_notes(fmt: Float) -> dict[int, str]:
        notes: dict[int, str] = {}
        if fmt.has_zero:
            notes[0] = "zero"
            notes[1] = "smallest subnormal"
            notes[(1 << fmt.mantissa) - 1] = "largest subnormal" if fmt.mantissa > 1 else "the only subnormal"
        if fmt.has_negative_zero:
            notes[1 << (fmt.bits - 1)] = "negative zero"
        notes[1 << fmt.mantissa if fmt.has_zero else 0] = "smallest normal"
        notes[fmt.bias << fmt.mantissa] = "one"
        notes[(fmt.bias << fmt.mantissa) + 1] = "next after one"
        notes[fmt.max_code] = "largest"
        if fmt.signed:
            notes[fmt.max_code | 1 << (fmt.bits - 1)] = "most negative"
        if fmt.inf_code is not None:
            notes[fmt.inf_code] = "infinity"
        if fmt.nan_code is not None:
            notes[fmt.nan_code] = "NaN that encoding writes"
        return notes


@dataclass(frozen=True, slots=True)
class FormatTable:
    """All formats."""

    formats: tuple[FormatInfo, ...]

    columns: ClassVar[tuple[str, ...]] = (
        "format",
        "bits",
        "exponent",
        "mantissa",
        "bias",
        "max",
        "smallest normal",
        "smallest subnormal",
        "Inf/NaN",
        "spec",
    )

    def rows(self) -> Iterator[tuple[str | int | None, ...]]:
        """The cells of `columns`, a row for each format."""
        for info in self.formats:
            special = [word for word, there in (("Inf", info.has_inf), ("NaN", info.has_nan)) if there]
            yield (
                info.name,
                info.format.bits,
                info.exponent,
                info.mantissa,
                info.bias,
                f"{info.format.max:.6g}",
                _power(info.smallest_normal),
                _power(info.smallest_subnormal),
                ", ".join(special) or None,
                info.format.spec,
            )

    def to_json(self) -> list[dict[str, Any]]:
        """One object a format, codes not included."""
        return [info.facts() for info in self.formats]


def describe(fmt: str | Format) -> FormatInfo:
    """Everything about one format.

    >>> describe("fp4_e2m1").finite_values
    15

    Raises UnknownNameError for a name that is not in the table.
    """
    return FormatInfo(get(fmt) if isinstance(fmt, str) else fmt)


def describe_all() -> FormatTable:
    """Everything about every format, in the order of the table."""
    return FormatTable(tuple(FormatInfo(fmt) for fmt in FORMATS.values()))


def json_number(x: float) -> float | str:
    """``x`` itself, or ``"nan"``, ``"inf"``, ``"-inf"``: JSON has no such numbers."""
    return x if isfinite(x) else str(x)


def exact(x: float) -> str:
    """``x`` to its last decimal digit.

    >>> exact(448.0), exact(0.1015625), exact(2.0**-24)
    ('448', '0.1015625', '5.9604644775390625e-8')
    """
    from decimal import Decimal  # noqa: PLC0415 - milliseconds that `halve --help` need not wait for

    if not isfinite(x):
        return str(x)
    decimal = Decimal(x)
    return f"{decimal:f}" if x == 0 or 1e-5 < abs(x) < 1e15 else f"{decimal:e}"


def short(x: float) -> str:
    """``x`` in at most 24 characters: exactly, or as a power of two, or rounded to what identifies a float64."""
    if len(digits := exact(x)) <= 24:
        return digits
    significand, exponent = frexp(abs(x))
    return f"{'-' if x < 0 else ''}2^{exponent - 1}" if significand == 0.5 else repr(x)


def hex_float(x: float) -> str:
    """``x`` as a C hexadecimal float without idle zeros.

    >>> hex_float(0.1015625)
    '0x1.ap-4'
    """
    if not isfinite(x):
        return str(x)
    significand, exponent = x.hex().split("p")
    return f"{significand.rstrip('0').rstrip('.') if '.' in significand else significand}p{exponent}"


def _power(x: float | None) -> str | None:
    return None if x is None else f"2^{frexp(x)[1] - 1}"
