"""The one table of number formats. A format is a row of data; codecs, limits and sizes are derived from the row.

To add a format, add one row to ``_ROWS``. This module imports no numpy, so that ``halve --help`` and shell completion
stay instant.
"""

from dataclasses import dataclass
from math import ldexp
from typing import Literal

from halve.errors import UnknownNameError

Specials = Literal["ieee", "fn", "fnuz", "finite", "nan_top"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Float:
    """Sign, exponent and mantissa fields, most significant first; value ``(-1)^s * 2^(e - bias) * 1.m``.

    ``specials`` says which codes are not numbers:

    - ``ieee``: top exponent is Inf (mantissa 0) and NaN (IEEE 754)
    - ``fn``: only all-ones is NaN, no Inf (OCP OFP8 E4M3)
    - ``fnuz``: only the code of -0 is NaN, no Inf, no -0 (Graphcore/AMD)
    - ``finite``: every code is a number (OCP MX FP6, FP4)
    - ``nan_top``: the top exponent is NaN, no Inf (OCP MX E8M0)

    A format without mantissa bits has no subnormals and therefore no zero (E8M0).
    """

    name: str
    exponent: int
    mantissa: int
    bias: int
    specials: Specials
    signed: bool = True
    container: int = 0
    spec: str = ""

    @property
    def bits(self) -> int:
        """Bits that carry information."""
        return int(self.signed) + self.exponent + self.mantissa

    @property
    def storage_bits(self) -> int:
        """Bits one number takes in a file: ``container`` where the format is never packed at its own width."""
        return self.container or self.bits

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal number (of the smallest number, where there are no subnormals)."""
        return 1 - self.bias if self.mantissa else -self.bias

    @property
    def max_code(self) -> int:
        """Code of the largest finite number."""
        top = (1 << (self.exponent + self.mantissa)) - 1
        match self.specials:
            case "ieee" | "nan_top":
                return ((1 << self.exponent) - 1 << self.mantissa) - 1
            case "fn":
                return top - 1
            case "fnuz" | "finite":
                return top

    @property
    def inf_code(self) -> int | None:
        """Code of +Inf, or None."""
        return self.max_code + 1 if self.specials == "ieee" else None

    @property
    def nan_code(self) -> int | None:
        """The NaN code that encoding writes (quiet and positive), or None."""
        match self.specials:
            case "ieee":
                return self.max_code + 1 | 1 << max(self.mantissa - 1, 0)
            case "fn" | "nan_top":
                return self.max_code + 1
            case "fnuz":
                return 1 << (self.bits - 1)
            case "finite":
                return None

    @property
    def max(self) -> float:
        """Largest finite value."""
        field, fraction = divmod(self.max_code, 1 << self.mantissa)
        return ldexp(1 + fraction / (1 << self.mantissa), field - self.bias)

    @property
    def min(self) -> float:
        """Most negative finite value, or the smallest value where there is no sign."""
        return -self.max if self.signed else (0.0 if self.has_zero else self.smallest)

    @property
    def smallest_normal(self) -> float:
        """Smallest positive value of full precision."""
        return ldexp(1, self.min_exponent)

    @property
    def smallest(self) -> float:
        """Smallest positive value, subnormals included."""
        return ldexp(1, self.min_exponent - self.mantissa)

    @property
    def has_zero(self) -> bool:
        """False where there are no subnormals."""
        return self.mantissa > 0

    @property
    def has_negative_zero(self) -> bool:
        """Whether -0 and +0 have codes of their own."""
        return self.signed and self.has_zero and self.specials != "fnuz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Int:
    """Two's complement (``signed``) or plain binary integer."""

    name: str
    bits: int
    signed: bool = True
    spec: str = ""

    @property
    def storage_bits(self) -> int:
        """Bits one number takes in a file."""
        return self.bits

    @property
    def max(self) -> float:
        """Largest value."""
        return float((1 << self.bits - int(self.signed)) - 1)

    @property
    def min(self) -> float:
        """Most negative value."""
        return float(-(1 << self.bits - 1)) if self.signed else 0.0

    @property
    def nan_code(self) -> None:
        """Integers have no NaN."""
        return


@dataclass(frozen=True, slots=True, kw_only=True)
class Codebook:
    """A list of values, ascending; the code is the index."""

    name: str
    values: tuple[float, ...]
    spec: str = ""

    @property
    def bits(self) -> int:
        """Bits of an index."""
        return (len(self.values) - 1).bit_length()

    @property
    def storage_bits(self) -> int:
        """Bits one number takes in a file."""
        return self.bits

    @property
    def max(self) -> float:
        """Largest value."""
        return self.values[-1]

    @property
    def min(self) -> float:
        """Most negative value."""
        return self.values[0]

    @property
    def nan_code(self) -> None:
        """Every index is a number."""
        return


Format = Float | Int | Codebook

IEEE = "IEEE 754-2019"
OCP_FP8 = "OCP 8-bit Floating Point (OFP8) 1.0"
OCP_MX = "OCP Microscaling Formats (MX) 1.0"
FNUZ = "Noune et al., 8-bit Numerical Formats for Deep Neural Networks, arXiv 2206.02915"

_ROWS: tuple[Format, ...] = (
    Float(name="fp32", exponent=8, mantissa=23, bias=127, specials="ieee", spec=IEEE),
    Float(name="tf32", exponent=8, mantissa=10, bias=127, specials="ieee", container=32, spec="NVIDIA PTX ISA, .tf32"),
    Float(name="bf16", exponent=8, mantissa=7, bias=127, specials="ieee", spec="Intel BFLOAT16 Numerics Definition"),
    Float(name="fp16", exponent=5, mantissa=10, bias=15, specials="ieee", spec=IEEE),
    Float(name="fp8_e4m3", exponent=4, mantissa=3, bias=7, specials="fn", spec=OCP_FP8),
    Float(name="fp8_e5m2", exponent=5, mantissa=2, bias=15, specials="ieee", spec=OCP_FP8),
    Float(name="fp8_e4m3fnuz", exponent=4, mantissa=3, bias=8, specials="fnuz", spec=FNUZ),
    Float(name="fp8_e5m2fnuz", exponent=5, mantissa=2, bias=16, specials="fnuz", spec=FNUZ),
    Float(name="fp6_e2m3", exponent=2, mantissa=3, bias=1, specials="finite", spec=OCP_MX),
    Float(name="fp6_e3m2", exponent=3, mantissa=2, bias=3, specials="finite", spec=OCP_MX),
    Float(name="fp4_e2m1", exponent=2, mantissa=1, bias=1, specials="finite", spec=OCP_MX),
    Float(name="e8m0", exponent=8, mantissa=0, bias=127, specials="nan_top", signed=False, spec=OCP_MX),
    Float(
        name="ue4m3",
        exponent=4,
        mantissa=3,
        bias=7,
        specials="fn",
        signed=False,
        container=8,
        spec="NVIDIA PTX ISA, .ue4m3",
    ),
    *(
        row
        for bits in (16, 8, 6, 4, 3, 2)
        for row in (
            Int(name=f"int{bits}", bits=bits, spec="two's complement"),
            Int(name=f"uint{bits}", bits=bits, signed=False, spec="binary"),
        )
    ),
    Codebook(
        name="nf4",
        values=(
            -1.0,
            -0.6961928009986877,
            -0.5250730514526367,
            -0.39491748809814453,
            -0.28444138169288635,
            -0.18477343022823334,
            -0.09105003625154495,
            0.0,
            0.07958029955625534,
            0.16093020141124725,
            0.24611230194568634,
            0.33791524171829224,
            0.44070982933044434,
            0.5626170039176941,
            0.7229568362236023,
            1.0,
        ),
        spec="Dettmers et al., QLoRA, arXiv 2305.14314, appendix E",
    ),
)
FORMATS: dict[str, Format] = {row.name: row for row in _ROWS}


def get(name: str) -> Format:
    """Return the format called ``name``. Raises UnknownNameError, which lists near matches."""
    try:
        return FORMATS[name]
    except KeyError:
        raise UnknownNameError("format", name, list(FORMATS)) from None
