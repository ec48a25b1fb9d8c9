"""Write formats.json: what other people's code, or exact rational arithmetic, says about every number format.

    python tests/golden/make_formats.py

Nothing of halve is imported. `tests/unit/test_formats.py` runs `build` again, so that this script, the file, the
installed ml_dtypes and halve must all agree.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

GOLDEN = Path(__file__).with_name("formats.json")
Values = Callable[[NDArray[np.uint32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Oracle:
    """Who says so, the values of given codes, and the numpy dtype behind them where there is one."""

    source: str
    bits: int
    values: Values
    dtype: DTypeLike | None = None


def peer(name: str, bits: int, dtype: DTypeLike, source: str) -> tuple[str, Oracle]:
    """The oracle that views codes as a numpy or ml_dtypes dtype."""
    container = np.dtype(f"u{np.dtype(dtype).itemsize}")

    def values(codes: NDArray[np.uint32]) -> NDArray[np.float32]:
        return codes.astype(container).view(dtype).astype(np.float32)

    return name, Oracle(source, bits, values, dtype)


def fraction_of_bits(code: int, exponent: int, mantissa: int, bias: int) -> Fraction:
    """The number that exponent and mantissa fields stand for (IEEE 754-2019, 3.4), exactly."""
    field, rest = divmod(code, 2**mantissa)
    if field == 0:
        return Fraction(rest, 2**mantissa) * Fraction(2) ** (1 - bias)
    return (1 + Fraction(rest, 2**mantissa)) * Fraction(2) ** (field - bias)


def tf32(code: int) -> float:
    """PTX ISA: the sign and exponent of FP32 with 10 mantissa bits."""
    sign, magnitude = divmod(code, 2**18)
    if magnitude >= 255 * 2**10:
        value = float("inf") if magnitude == 255 * 2**10 else float("nan")
    else:
        value = float(fraction_of_bits(magnitude, exponent=8, mantissa=10, bias=127))
    return -value if sign else value


def ue4m3(code: int) -> float:
    """PTX ISA: E4M3 without the sign, 0x7f is NaN."""
    return float("nan") if code == 0x7F else float(fraction_of_bits(code, exponent=4, mantissa=3, bias=7))


# Written out: two's complement of 3 and 6 bits, and appendix E of the QLoRA paper (arXiv 2305.14314).
INT3 = (0, 1, 2, 3, -4, -3, -2, -1)
INT6 = (*range(32), *range(-32, 0))
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def listed(name: str, bits: int, value: Callable[[int], float], source: str) -> tuple[str, Oracle]:
    """The oracle that computes one value at a time."""

    def values(codes: NDArray[np.uint32]) -> NDArray[np.float32]:
        return np.array([value(int(code)) for code in codes.flat], np.float32).reshape(codes.shape)

    return name, Oracle(source, bits, values)


ORACLES: dict[str, Oracle] = dict(
    [
        peer("fp32", 32, np.float32, "numpy.float32"),
        listed("tf32", 19, tf32, "rational arithmetic"),
        peer("bf16", 16, ml_dtypes.bfloat16, "ml_dtypes.bfloat16"),
        peer("fp16", 16, np.float16, "numpy.float16"),
        peer("fp8_e4m3", 8, ml_dtypes.float8_e4m3fn, "ml_dtypes.float8_e4m3fn"),
        peer("fp8_e5m2", 8, ml_dtypes.float8_e5m2, "ml_dtypes.float8_e5m2"),
        peer("fp8_e4m3fnuz", 8, ml_dtypes.float8_e4m3fnuz, "ml_dtypes.float8_e4m3fnuz"),
        peer("fp8_e5m2fnuz", 8, ml_dtypes.float8_e5m2fnuz, "ml_dtypes.float8_e5m2fnuz"),
        peer("fp6_e2m3", 6, ml_dtypes.float6_e2m3fn, "ml_dtypes.float6_e2m3fn"),
        peer("fp6_e3m2", 6, ml_dtypes.float6_e3m2fn, "ml_dtypes.float6_e3m2fn"),
        peer("fp4_e2m1", 4, ml_dtypes.float4_e2m1fn, "ml_dtypes.float4_e2m1fn"),
        peer("e8m0", 8, ml_dtypes.float8_e8m0fnu, "ml_dtypes.float8_e8m0fnu"),
        listed("ue4m3", 7, ue4m3, "rational arithmetic"),
        peer("int16", 16, np.int16, "numpy.int16"),
        peer("uint16", 16, np.uint16, "numpy.uint16"),
        peer("int8", 8, np.int8, "numpy.int8"),
        peer("uint8", 8, np.uint8, "numpy.uint8"),
        listed("int6", 6, lambda code: INT6[code], "written out"),
        listed("uint6", 6, lambda code: range(64)[code], "written out"),
        peer("int4", 4, ml_dtypes.int4, "ml_dtypes.int4"),
        peer("uint4", 4, ml_dtypes.uint4, "ml_dtypes.uint4"),
        listed("int3", 3, lambda code: INT3[code], "written out"),
        listed("uint3", 3, lambda code: range(8)[code], "written out"),
        peer("int2", 2, ml_dtypes.int2, "ml_dtypes.int2"),
        peer("uint2", 2, ml_dtypes.uint2, "ml_dtypes.uint2"),
        listed("nf4", 4, lambda code: NF4[code], "written out"),
    ]
)


def codes(oracle: Oracle) -> NDArray[np.uint32]:
    """Every code up to 16 bits; beyond, every sign and exponent with the mantissa's corners and 8 spread patterns."""
    if oracle.bits <= 16:
        return np.arange(1 << oracle.bits, dtype=np.uint32)
    mantissa = oracle.bits - 9
    top = (1 << mantissa) - 1
    corners = {0, 1, 2, 3, top // 2, top // 2 + 1, top // 2 + 2, top - 1, top}
    corners |= {(k * 0x9E3779B1 & 0xFFFFFFFF) >> (32 - mantissa) for k in range(1, 9)}
    fields = np.arange(1 << 9, dtype=np.uint32) << np.uint32(mantissa)
    return np.sort((fields[:, None] | np.array(sorted(corners), np.uint32)).ravel())


def digest(values: NDArray[np.float32]) -> str:
    """sha256 of float32 bits, all NaN alike."""
    bits = np.where(np.isnan(values), np.uint32(0x7FC00000), values.view(np.uint32))
    return hashlib.sha256(bits.astype("<u4").tobytes()).hexdigest()


def limits(values: NDArray[np.float32]) -> dict[str, str]:
    """The largest, the most negative (or smallest) and the smallest positive number among values, as hex floats."""
    finite = values[np.isfinite(values)]
    extremes = {"max": finite.max(), "min": finite.min(), "smallest": finite[finite > 0].min()}
    return {name: float(value).hex() for name, value in extremes.items()}


def build() -> dict[str, dict[str, object]]:
    """What formats.json holds."""
    table: dict[str, dict[str, object]] = {}
    for name, oracle in ORACLES.items():
        values = oracle.values(codes(oracle))
        row: dict[str, object] = {"source": oracle.source, "bits": oracle.bits, **limits(values)}
        row["sha256"] = digest(values)
        if oracle.bits <= 8:
            row["values"] = [float(value).hex() for value in values]
        table[name] = row
    return table


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(build(), indent=1) + "\n")
