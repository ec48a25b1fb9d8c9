"""What can be built: an arithmetic unit of a kind, for a format. Widths follow from the row of the format."""

from dataclasses import dataclass
from typing import Literal, cast

from halve import formats
from halve.errors import UnknownNameError, UnsupportedError
from halve.formats import Float, Int
from halve.silicon.element import element

Kind = Literal["multiplier", "exact_product", "adder", "mac", "fixed_mac", "dot"]
ScaleName = Literal["e8m0", "ue4m3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A unit before it has a format."""

    kind: Kind
    about: str
    length: int = 1
    scale: ScaleName | None = None


_MX, _NVFP4 = "a power-of-two scale for each vector (OCP MX)", "an E4M3 scale for every 16 numbers (NVFP4)"
UNITS: dict[str, Shape] = {
    "multiplier": Shape(kind="multiplier", about="a product, rounded to the format; integers: exact, twice as wide"),
    "exact_product": Shape(
        kind="exact_product", about="sign, sum of exponents and product of significands, not rounded"
    ),
    "adder": Shape(kind="adder", about="a sum, rounded to the format"),
    "mac": Shape(kind="mac", about="a product added to an FP32 number (integers: to 32 or 48 bits)"),
    "fixed_mac": Shape(kind="fixed_mac", about="an exact product added to a fixed-point number that loses nothing"),
    "dot16": Shape(kind="dot", length=16, about="16 products added to an FP32 number (integers: to 32 or 48 bits)"),
    "dot32": Shape(kind="dot", length=32, about="the same with 32"),
    "dot16_mx": Shape(kind="dot", length=16, scale="e8m0", about=f"dot16 with {_MX}"),
    "dot32_mx": Shape(kind="dot", length=32, scale="e8m0", about=f"dot32 with {_MX}"),
    "dot16_nvfp4": Shape(kind="dot", length=16, scale="ue4m3", about=f"dot16 with {_NVFP4}"),
    "dot32_nvfp4": Shape(kind="dot", length=32, scale="ue4m3", about=f"dot32 with {_NVFP4}"),
}

FP32 = cast("Float", formats.get("fp32"))
EXPONENT_ORIGIN = 512  # of a tile's terms, so that no exponent is below zero
_NVFP4_BLOCK = 16
_HEADROOM = 10  # bits of a fixed-point accumulator above one product: a thousand of the largest
_LEAST_ACCUMULATOR, _ACCUMULATOR_STEP, MOST_ACCUMULATOR = 32, 16, 64
_LEAST_WINDOW, _MOST_WINDOW = 28, 40  # FP32's 24 bits, a bit before, and three below


@dataclass(frozen=True, slots=True)
class Port:
    """An input of a circuit."""

    name: str
    bits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit of one format: a row that names a circuit. Build it with :func:`unit`, which refuses what cannot be."""

    name: str
    element: Float | Int
    subnormals: bool = True

    @property
    def shape(self) -> Shape:
        """The row of `UNITS`."""
        return UNITS[self.name]

    @property
    def kind(self) -> Kind:
        """What sort of circuit."""
        return self.shape.kind

    @property
    def scale(self) -> ScaleName | None:
        """The format of the vectors' scales."""
        return self.shape.scale

    @property
    def title(self) -> str:
        """In words, and as a file name: ``mac_fp8_e4m3``."""
        return f"{self.name}_{self.element.name}{'' if self.subnormals else '_flushed'}"

    @property
    def scale_format(self) -> Float:
        """The row of the scales' format. Raises KeyError where there are no scales."""
        return cast("Float", formats.FORMATS[self.scale or ""])

    @property
    def products(self) -> int:
        """Multiplications of one operation."""
        return self.shape.length

    @property
    def group(self) -> int:
        """Products that share their scales. The tensor scale of NVFP4 is applied to results, outside."""
        return _NVFP4_BLOCK if self.scale == "ue4m3" else self.products

    @property
    def product_bits(self) -> int:
        """Bits of a product's magnitude in units of the smallest that is not zero."""
        fmt = self.element
        if isinstance(fmt, Int):
            return 2 * fmt.bits - 1
        largest_field = fmt.max_code >> fmt.mantissa
        return 2 * (fmt.mantissa + 1) + 2 * (largest_field - 1)

    @property
    def sum_bits(self) -> int:
        """Bits of the magnitude of the sum of a group in the same units."""
        return self.product_bits + (self.group - 1).bit_length()

    @property
    def fraction_bits(self) -> int:
        """How far below the binary point those units lie."""
        return 0 if isinstance(self.element, Int) else 2 * (self.element.mantissa - self.element.min_exponent)

    @property
    def _term_bits(self) -> int:
        """Of a fixed-point sum, multiplied by scales with a mantissa."""
        return self.sum_bits + (2 * (self.scale_format.mantissa + 1) if self.scale == "ue4m3" else 0)

    @property
    def window(self) -> int:
        """Bits that a tile keeps of an aligned term: those of a product and FP32's, and a few below."""
        least = _LEAST_WINDOW
        if isinstance(self.element, Float):
            least = max(least, 2 * (self.element.mantissa + 1) + 4)
        return max(least, self._term_bits) if self._scaled_in_fixed_point else least

    @property
    def _scaled_in_fixed_point(self) -> bool:
        return self.scale == "ue4m3" or isinstance(self.element, Int)

    @property
    def fixed_point(self) -> bool:
        """Whether a tile adds its products in fixed point."""
        return self._scaled_in_fixed_point or self.sum_bits <= self.window

    @property
    def exact_accumulator(self) -> bool:
        """Whether the accumulator is an integer that loses nothing, and not FP32."""
        return self.kind == "fixed_mac" or (isinstance(self.element, Int) and self.scale is None)

    @property
    def accumulator_bits(self) -> int:
        """Width of the accumulator."""
        if not self.exact_accumulator:
            return FP32.bits
        needed = self.product_bits + _HEADROOM
        steps = -(-(needed - _LEAST_ACCUMULATOR) // _ACCUMULATOR_STEP)
        return _LEAST_ACCUMULATOR + _ACCUMULATOR_STEP * max(steps, 0)

    @property
    def ports(self) -> tuple[Port, ...]:
        """Inputs in order: operands, accumulator, scales."""
        bits = self.element.bits
        match self.kind:
            case "multiplier" | "exact_product" | "adder":
                return Port("a", bits), Port("b", bits)
            case "mac" | "fixed_mac":
                return Port("a", bits), Port("b", bits), Port("c", self.accumulator_bits)
            case "dot":
                operands = [Port(f"{side}{i}", bits) for side in "ab" for i in range(self.products)]
                scales = [Port(name, self.scale_format.bits) for pair in self.scales for name in pair]
                return *operands, Port("c", self.accumulator_bits), *scales

    @property
    def scales(self) -> tuple[tuple[str, str], ...]:
        """Ports of the scales of each group."""
        groups = range(self.products // self.group if self.scale else 0)
        return tuple((f"sa{group}", f"sb{group}") for group in groups)


def unit(name: str, fmt: str | Float | Int, *, subnormals: bool = True) -> Unit:
    """The unit ``name`` of `UNITS` for the format ``fmt`` (a name as in `halve.silicon.element`, or a row).

    Raises UnknownNameError for a name, FormatError for an impossible format, UnsupportedError for a pair that makes no
    circuit.
    """
    if name not in UNITS:
        raise UnknownNameError("unit", name, list(UNITS))
    found = Unit(name=name, element=element(fmt) if isinstance(fmt, str) else fmt, subnormals=subnormals)
    if why := _impossible(found):
        raise UnsupportedError(f"{name} of {found.element.name}: {why[0]}", hint=why[1])
    return found


def _impossible(found: Unit) -> tuple[str, str] | None:
    if isinstance(found.element, Int):
        if not found.subnormals:
            return "integers have no subnormals", "leave out --no-subnormals"
        if found.kind in ("exact_product", "fixed_mac", "adder"):
            return "integers have one product, which is exact", "use multiplier or mac"
    elif found.kind == "fixed_mac" and found.accumulator_bits > MOST_ACCUMULATOR:
        bits = found.accumulator_bits
        return f"exact sums of it take {bits} bits, more than {MOST_ACCUMULATOR}", "use mac, which adds in FP32"
    if found.scale == "ue4m3" and found.window > _MOST_WINDOW:
        return "its sums are too wide to be multiplied by E4M3 scales", "use the unit with _mx, or a narrower format"
    return None
