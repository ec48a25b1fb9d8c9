"""Data of the page Formats: computed by the codecs, never by the page."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from halve import formats
from halve.codecs.cast import cast
from halve.codecs.rounding import Rounding
from halve.errors import FormatError, HalveError, UnknownNameError
from halve.formats import Float, Format, info
from halve.formats.value import fields, kind, neighbours, smallest_positive, value
from halve.schemes.quantize import ScaleRule
from halve.web import block, number_line

router = APIRouter(prefix="/formats")

_Name = Annotated[str, Query(max_length=64)]
_Names = Annotated[str, Query(max_length=1024, description="formats, between commas")]
_Number = Annotated[str, Query(max_length=400, description="decimal, C hexadecimal (0x1.8p-3), nan or inf")]


@router.get("")
def facts() -> list[dict[str, Any]]:
    """Every format's facts."""
    rows = info.describe_all().formats
    return [row.facts() | {"smallest_positive": smallest_positive(row.format)} for row in rows]


@router.get("/cast")
def cast_to_all(x: _Number, rounding: Rounding = "nearest_even", *, saturate: bool = True) -> dict[str, Any]:
    """What a number becomes in every format; an error in words where it cannot be."""
    number = _number(x)
    found = []
    for fmt in formats.FORMATS.values():
        try:
            one = next(cast(number, fmt, rounding=rounding, saturate=saturate).numbers())
        except HalveError as error:
            found.append({"format": fmt.name, "problem": str(error)})
        else:
            found.append({"format": fmt.name, "kind": kind(fmt, one.code), **one.to_json()})
    return {"input": info.json_number(number), "exact": info.exact(number), "formats": found}


@router.get("/code")
def code(name: _Name, code: Annotated[int, Query(ge=0, lt=1 << 32)]) -> dict[str, Any]:
    """One code of a format: its fields, what they mean, its exact value and its neighbours."""
    fmt = formats.get(name)
    x = value(fmt, code)
    low, high = neighbours(fmt, code)
    return {
        "format": name,
        "code": code,
        "hex": f"0x{code:0{-(-fmt.bits // 4)}x}",
        "fields": fields(fmt, code),
        "kind": kind(fmt, code),
        "value": info.json_number(x),
        "exact": info.exact(x),
        "hex_float": info.hex_float(x),
        "below": None if low is None else info.short(low),
        "above": None if high is None else info.short(high),
        "formula": _formula(fmt, code),
    }


@router.get("/line")
def line(names: _Names, low: float, high: float, *, logarithmic: bool = False) -> list[dict[str, Any]]:
    """The numbers of formats in an interval: listed, or counted by column where there are many."""
    return [number_line.line(fmt, low, high, logarithmic=logarithmic).to_json() for fmt in _named(names)]


@router.get("/precision")
def precision(names: _Names) -> list[dict[str, Any]]:
    """The largest relative error of rounding, by magnitude."""
    return [number_line.precision(fmt).to_json() for fmt in _named(names)]


@router.get("/schemes")
def schemes() -> list[dict[str, Any]]:
    """Schemes whose blocks can be looked at."""
    return [{"name": scheme.name, "about": scheme.about, "bpw": scheme.bpw} for scheme in block.schemes()]


@router.get("/block")
def one_block(
    scheme: _Name,
    numbers: Annotated[str, Query(max_length=4096, description="between commas or blanks; without: drawn")] = "",
    seed: Annotated[int, Query(ge=0, lt=1 << 32)] = 0,
    rule: ScaleRule | None = None,
    largest: Annotated[str, Query(max_length=64)] = "",
) -> dict[str, Any]:
    """A few numbers in blocks of a scheme: codes, scales, errors."""
    known = {row.name: row for row in block.schemes()}
    if scheme not in known:
        raise UnknownNameError("scheme of short blocks", scheme, list(known))
    row = known[scheme]
    assert isinstance(row.weight.block_size, int)  # noqa: S101 - `block.schemes` yields no others
    given = [_number(word) for word in numbers.replace(",", " ").split()] or block.draw(seed, row.weight.block_size)
    return block.view(row, given, rule=rule, largest=_number(largest) if largest else None).to_json()


def _named(names: str) -> list[Format]:
    found = [formats.get(name) for name in dict.fromkeys(names.split(",")) if name]
    if not found:
        raise FormatError("no format is named", hint="name one or more, between commas")
    return found


def _number(word: str) -> float:
    """Raises FormatError for what is no number."""
    try:
        return float.fromhex(word) if "0x" in word.lower() else float(word)
    except (ValueError, OverflowError):
        raise FormatError(
            f"{word[:40]!r} is not a number", hint="write it as 0.1, -1e-3, 0x1.8p-3, inf or nan"
        ) from None


def _formula(fmt: Format, code: int) -> dict[str, Any] | None:
    """Sign, power of two and significand whose product the value is; None for what is no such product."""
    if not isinstance(fmt, Float) or kind(fmt, code) not in ("normal", "subnormal"):
        return None
    field, fraction = divmod(code & ((1 << fmt.exponent + fmt.mantissa) - 1), 1 << fmt.mantissa)
    subnormal = kind(fmt, code) == "subnormal"
    return {
        "negative": value(fmt, code) < 0,
        "exponent_field": field,
        "bias": fmt.bias,
        "power": fmt.min_exponent if subnormal else field - fmt.bias,
        "significand": info.exact((0 if subnormal else 1) + fraction / (1 << fmt.mantissa)),
    }
