"""Encode, decode and pack through the native module where it has the kernel, else through the reference: equal bits.

``HALVE_REQUIRE_NATIVE=1`` makes importing halve fail without the native module, so that the fallback never hides a
broken build. ``HALVE_ISA=scalar|avx2|avx512`` chooses an instruction set.
"""

from functools import cache
from typing import TYPE_CHECKING, TypeVar

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from halve import formats
from halve.codecs import packing, reference
from halve.codecs.reference import Codes, code_dtype
from halve.codecs.rounding import Rounding
from halve.errors import UnsupportedError
from halve.formats import Codebook, Float, Format, Int

if TYPE_CHECKING:
    from halve._native import Codec, Kernels

try:
    from halve import _native as native
except ImportError:
    native = None  # type: ignore[assignment]


Scalar = TypeVar("Scalar", bound=np.generic)

# Formats that are numpy dtypes: numpy's cast rounds to nearest even, too, and needs no float64.
_CASTS: dict[str, np.dtype[np.floating]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}


@cache
def kernels() -> "Kernels | None":
    """The native kernels in use; None where the native module is missing.

    Raises UnsupportedError where HALVE_ISA names an instruction set that does not exist or that this CPU lacks.
    """
    if native is None:
        return None
    try:
        return native.kernels()
    except ValueError as error:
        raise UnsupportedError(str(error), hint="unset HALVE_ISA: the best one is chosen by itself") from None


def isa() -> str:
    """Instruction set of the native kernels in use, or ``python`` where there are none."""
    active = kernels()
    return "python" if active is None else active.isa


@cache
def codec(fmt: Format) -> "Codec":
    """``fmt`` as the native kernels read it."""
    values = reference.value_table(fmt) if fmt.bits <= 8 else np.empty(0, np.float32)
    match fmt:
        case Codebook():
            return native.Codec.codebook(bits=fmt.bits, thresholds=thresholds(fmt), values=values)
        case Int():
            return native.Codec.integer(bits=fmt.bits, lowest=fmt.min, largest=fmt.max, values=values)
        case Float():
            return native.Codec.floating(
                bits=fmt.bits,
                mantissa=fmt.mantissa,
                min_exponent=fmt.min_exponent,
                largest=fmt.max,
                smallest=fmt.smallest,
                nan_code=fmt.nan_code,
                is_signed=fmt.signed,
                has_zero=fmt.has_zero,
                has_negative_zero=fmt.has_negative_zero,
                values=values,
            )


def thresholds(fmt: Codebook) -> NDArray[np.float32]:
    """The smallest float32 that rounds above each value but the last. A middle itself goes to the even code."""
    values = np.array(fmt.values, np.float32).astype(np.float64)
    middle = (values[:-1] + values[1:]) / 2
    nearest = middle.astype(np.float32)
    tie_goes_up = np.arange(len(middle)) % 2 == 1
    too_low = (nearest < middle) | ((nearest == middle) & ~tie_goes_up)
    return np.where(too_low, np.nextafter(nearest, np.float32(np.inf)), nearest)


def encode(
    fmt: Format,
    values: ArrayLike,
    *,
    rounding: Rounding = "nearest_even",
    saturate: bool = True,
    rng: np.random.Generator | None = None,
) -> Codes:
    """:func:`halve.codecs.reference.encode`, quicker for float32 to nearest, saturating: native up to 8 bits."""
    active = kernels()
    x = np.asarray(values)
    usual = x.dtype == np.float32 and rounding == "nearest_even" and saturate
    if usual and isinstance(fmt, Float) and fmt.name in _CASTS and fmt == formats.get(fmt.name):
        return _cast(fmt, x)
    if active is None or fmt.bits > 8 or not usual:
        return reference.encode(fmt, values, rounding=rounding, saturate=saturate, rng=rng)
    x = plain(x)
    codes = np.empty(x.shape, np.uint8)
    if active.encode(codec(fmt), x, codes) is not None:
        raise reference.nan_error(fmt, np.isnan(x))
    return codes


def _cast(fmt: Float, x: NDArray[np.float32]) -> Codes:
    dtype = code_dtype(fmt)
    with np.errstate(invalid="ignore"):  # a signalling NaN warns where it is only copied
        clipped = np.clip(x, np.float32(fmt.min), np.float32(fmt.max))
    return np.where(np.isnan(x), dtype(fmt.nan_code or 0), clipped.astype(_CASTS[fmt.name]).view(dtype))


def decode(fmt: Format, codes: ArrayLike) -> NDArray[np.float32]:
    """:func:`halve.codecs.reference.decode`; native for formats of at most 8 bits."""
    active = kernels()
    c = np.asarray(codes)
    if active is None or fmt.bits > 8 or c.dtype != np.uint8:
        return reference.decode(fmt, codes)
    values = np.empty(c.shape, np.float32)
    if not active.decode(codec(fmt), plain(c), values):
        return reference.decode(fmt, c)  # which names the code that does not fit
    return values


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """:func:`halve.codecs.packing.pack`; native for 4 and 6 bits."""
    active = kernels()
    if active is None or bits not in (4, 6) or codes.dtype != np.uint8:
        return packing.pack(codes, bits)
    packed = np.empty((*codes.shape[:-1], packing.packed_bytes(codes.shape[-1], bits)), np.uint8)
    active.pack(bits, plain(codes), packed)
    return packed


def unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """:func:`halve.codecs.packing.unpack`; native for 4 and 6 bits."""
    active = kernels()
    width, rest = divmod(packed.shape[-1] * 8, bits)
    if active is None or bits not in (4, 6) or packed.dtype != np.uint8 or rest:
        return packing.unpack(packed, bits)
    codes = np.empty((*packed.shape[:-1], width), np.uint8)
    active.unpack(bits, plain(packed), codes)
    return codes


def absmax(x: NDArray[np.floating]) -> float:
    """Largest magnitude in ``x`` (float32, float16, bfloat16); NaN or Inf where ``x`` holds one; 0 if it is empty."""
    active = kernels()
    if not x.size:
        return 0.0
    if active is None:
        return float(np.abs(x.astype(np.float32)).max())
    return active.absmax(weight_bits(x))


def weight_bits(x: NDArray[np.floating]) -> NDArray[np.float32 | np.float16 | np.uint16]:
    """``x`` as native kernels take it: :func:`plain`, and bfloat16 as its bits. Another dtype becomes float32."""
    if x.dtype == ml_dtypes.bfloat16:
        return plain(x).view(np.uint16)
    return plain(x if x.dtype in (np.float32, np.float16) else x.astype(np.float32))


def plain(x: NDArray[Scalar]) -> NDArray[Scalar]:
    """``x`` as native kernels take it: row after row and aligned (a view into a file may be neither)."""
    return np.require(x, requirements=["C", "A"])
