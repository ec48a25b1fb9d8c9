"""What the native kernels are tried on, and the blocks they are tried with."""

import ml_dtypes
import numpy as np

from halve import formats
from halve.codecs import reference
from halve.schemes import SCHEMES, Block
from halve.schemes import quantize as q

ISAS = ("avx512", "avx2", "scalar")
SMALL_FORMATS = [fmt for fmt in formats.FORMATS.values() if fmt.bits <= 8]
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

# The blocks of the scheme table, and others that a row could name: odd sizes, tiles, every scale format.
BLOCKS = [
    *{scheme.weight: None for scheme in SCHEMES.values() if scheme.weight.element_format.bits <= 8},
    Block(element="fp8_e4m3", block_size="tensor"),
    Block(element="int8", block_size="tensor"),
    Block(element="fp8_e5m2", scale="fp16", block_size=8),
    Block(element="fp8_e4m3fnuz", scale="bf16", block_size=24),
    Block(element="int8", scale="bf16", block_size=(3, 5)),
    Block(element="fp4_e2m1", scale="fp8_e4m3", block_size=16, tensor_scale=True),
    Block(element="fp4_e2m1", scale="ue4m3", block_size=(16, 16), tensor_scale=True),
    Block(element="fp4_e2m1", scale="e8m0", block_size=(32, 32)),
    Block(element="fp6_e3m2", scale="e8m0", block_size="row"),
    Block(element="uint8", scale="fp16", block_size="row", zero_point=True),
    Block(element="uint4", scale="fp32", block_size=(7, 9), zero_point=True),
    Block(element="uint2", scale="fp8_e5m2", block_size=16, zero_point=True),
    Block(element="int3", scale="fp16", block_size=(1, 20)),
    Block(element="nf4", scale="bf16", block_size=(2, 33)),
]


def block_name(block: Block) -> str:
    size = block.block_size if isinstance(block.block_size, (int, str)) else "x".join(map(str, block.block_size))
    extra = "+ts" * block.tensor_scale + "+zero" * block.zero_point
    return f"{block.element}/{block.scale}/{size}{extra}"


CASES = [(block, rule) for block in BLOCKS for rule in q.scale_rules(block)]
CASE_IDS = [f"{block_name(block)}-{rule}" for block, rule in CASES]


def numbers(fmt: formats.Format, randoms: int = 200_000) -> np.ndarray:
    """Float32 on which encoding can go wrong: values, midpoints and their neighbours, specials, random bit patterns."""
    values = reference.value_table(fmt)
    values = np.unique(values[np.isfinite(values)]).astype(np.float64)
    middles = ((values[:-1] + values[1:]) / 2).astype(np.float32)
    exact = np.concatenate([values.astype(np.float32), middles])
    neighbours = [np.nextafter(exact, np.float32(way)) for way in (-np.inf, np.inf)]
    tiny = np.array([1, 2, 0x3FFFFF, 0x400000, 0x5FFFFF, 0x600000, 0x600001, 0x7FFFFF, 0x800000], np.uint32)
    beyond = [min(fmt.max * factor, 3.4e38) for factor in (1.01, 1.5, 4)]
    specials = np.concatenate([[0, np.inf, *beyond], tiny.view(np.float32)])
    random_bits = np.random.default_rng(2206_02915).integers(0, 1 << 32, randoms, dtype=np.uint32).view(np.float32)
    x = np.concatenate([exact, *neighbours, specials.astype(np.float32), random_bits, [np.float32(np.nan)]])
    return np.concatenate([x, -x]).astype(np.float32, copy=False)


def without_nan(x: np.ndarray) -> np.ndarray:
    return x[~np.isnan(x)]


def shapes(block: Block) -> list[tuple[int, int]]:
    """One row, odd counts, partial tiles, and rows longer than what the kernels treat at once."""
    match block.block_size:
        case int(size):
            return [(1, size), (3, 5 * size), (2, (2048 // size + 3) * size)]
        case str():
            return [(1, 1), (5, 131), (3, 4133)]
        case (height, width):
            return [(1, 1), (2 * height + 1, 3 * width - 2), (height, 2048 // width * width + 2 * width + 1)]


def weights(shape: tuple[int, int], dtype: str) -> np.ndarray:
    """Bell-shaped weights with stretches of zeros, of subnormals, of huge numbers and of one sign, and with -0."""
    rng = np.random.default_rng(shape)
    w = (rng.standard_normal(shape) * 0.02).reshape(-1)
    starts = rng.integers(0, w.size, (6, max(w.size // 300, 1)))
    smallest, largest = (6e-8, 6e4) if dtype == "float16" else (1e-45, 3e38)
    for start in starts[0]:
        w[start : start + 70] = 0
    for start in starts[1]:
        w[start : start + 40] *= smallest * 1000
    for start in starts[2]:
        w[start : start + 40] = np.abs(w[start : start + 40])
    for start in starts[3]:
        w[start : start + 40] = -np.abs(w[start : start + 40])
    if w.size > 500:
        w[starts[4]] = largest
        w[starts[4] - 1] = -largest
    w[starts[5]] = -0.0
    return w.reshape(shape).astype(np.float32).astype(DTYPES[dtype])
