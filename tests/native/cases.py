"""Write a file of cases for native_selftest: inputs, and the answers of the numpy reference.

    PYTHONPATH=src:tests python -m native.cases build/cases.bin

Needs no native module. Numbers are little-endian; each case is a line of words, then its arrays.
"""

import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

from halve import formats
from halve.codecs import dispatch, packing, reference
from halve.formats import Codebook, Float, Format, Int
from halve.schemes import quantize as q
from native.inputs import CASES, DTYPES, SMALL_FORMATS, block_name, numbers, shapes, weights, without_nan

KINDS = (Float, Int, Codebook)  # in the order of native/codec.h
THRESHOLDS, VALUES = 255, 256  # array lengths there
DTYPE_NUMBERS = {"float32": 0, "float16": 1, "bfloat16": 2}  # in the order of native/isa.h
RANDOMS = 5000


def write(out: BinaryIO, *words: object, arrays: list[np.ndarray]) -> None:
    out.write(" ".join(str(int(word) if isinstance(word, bool) else word) for word in words).encode() + b"\n")
    out.writelines(array.tobytes() for array in arrays)


def padded(values: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([values, np.full(length - values.size, np.nan)]).astype(np.float32)


def write_codec(out: BinaryIO, fmt: Format) -> None:
    floating = (-1, 0, 0, False, False, False)
    if isinstance(fmt, Float):
        nan_code = -1 if fmt.nan_code is None else fmt.nan_code
        floating = (fmt.mantissa, fmt.min_exponent, nan_code, fmt.signed, fmt.has_zero, fmt.has_negative_zero)
    thresholds = dispatch.thresholds(fmt) if isinstance(fmt, Codebook) else np.empty(0, np.float32)
    values = reference.value_table(fmt) if fmt.bits <= 8 else np.empty(0, np.float32)
    smallest = fmt.smallest if isinstance(fmt, Float) else 0
    limits = np.array([fmt.min, fmt.max, smallest], np.float32)
    arrays = [limits, padded(thresholds, THRESHOLDS), padded(values, VALUES)]
    write(out, "codec", fmt.name, KINDS.index(type(fmt)), fmt.bits, *floating, thresholds.size, arrays=arrays)


def write_codec_cases(out: BinaryIO, fmt: Format) -> None:
    x = numbers(fmt, RANDOMS)
    if fmt.nan_code is None:
        x = without_nan(x)
    with np.errstate(invalid="ignore"):  # widening a signalling NaN
        codes = reference.encode(fmt, x)
    write(out, "encode", fmt.name, fmt.name, x.size, arrays=[x, codes])
    codes = np.arange(1 << fmt.bits, dtype=np.uint8)
    write(out, "decode", fmt.name, fmt.name, codes.size, arrays=[codes, reference.decode(fmt, codes)])


def write_quantize_cases(out: BinaryIO, block: q.Block, rule: q.ScaleRule) -> None:
    for dtype, number in DTYPE_NUMBERS.items():
        rows, columns = shape = shapes(block)[1]
        w = weights(shape, dtype)
        scale = q.tensor_scale(block, float(np.abs(w.astype(np.float32)).max()))
        made = q.quantize_reference(block, w, rule=rule, tensor_scale=scale)
        words = (rows, columns, *block.tile(rows, columns), q.SCALE_RULES.index(rule), number, made.scales.size)
        zeros = np.empty(0, np.uint8) if made.zeros is None else made.zeros
        write(
            out,
            "quantize",
            f"{block_name(block)}-{rule}-{dtype}",
            block.element,
            block.scale,
            *words,
            scale is not None,
            block.zero_point,
            arrays=[np.float32(scale or 1), w, made.codes, made.scales, zeros, q.dequantize_reference(made)],
        )


def main(path: str) -> None:
    with Path(path).open("wb") as out:
        for fmt in formats.FORMATS.values():
            write_codec(out, fmt)
        for fmt in SMALL_FORMATS:
            write_codec_cases(out, fmt)
        for bits in (4, 6):
            codes = np.random.default_rng(bits).integers(0, 1 << bits, 4100, dtype=np.uint8)
            write(out, "pack", bits, bits, codes.size, arrays=[codes, packing.pack(codes, bits)])
        for dtype in DTYPES:
            w = weights((3, 333), dtype)
            amax = np.abs(w.astype(np.float32)).max()
            write(out, "absmax", dtype, DTYPE_NUMBERS[dtype], w.size, arrays=[w, amax])
        for block, rule in CASES:
            if block.minimum:  # no kernel knows minima: see halve.algorithms.kernels.minimum
                continue
            write_quantize_cases(out, block, rule)


if __name__ == "__main__":
    main(sys.argv[1])
