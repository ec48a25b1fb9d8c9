"""How well a format holds data: codes with the scales that a tile takes, and the SQNR that is left."""

from dataclasses import dataclass
from math import inf, log10

import numpy as np
from numpy.typing import NDArray

from halve.codecs import reference
from halve.formats import Format
from halve.silicon.samples import Samples
from halve.silicon.unit import Unit

_MX_BLOCK, _NVFP4_BLOCK = 32, 16  # numbers that share a scale; OCP MX 1.0, NVIDIA


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """Samples as codes, the scale of every block (codes where the scale has a format), and what they decode to."""

    codes: NDArray[np.unsignedinteger]  # [rows, columns]
    scales: NDArray[np.unsignedinteger] | None  # [rows, blocks]
    block: int
    numbers: NDArray[np.float64]  # decoded codes, without scales
    values: NDArray[np.float64]  # with scales

    def shaped(self, shape: tuple[int, ...]) -> "Quantized":
        """The same with numbers in rows instead of blocks."""
        numbers, values = self.numbers.reshape(shape), self.values.reshape(shape)
        return Quantized(self.codes.reshape(shape), self.scales, self.block, numbers, values)


def bits_per_number(unit: Unit) -> float:
    """Bits that an operand takes in memory, with its share of a scale."""
    return unit.element.bits + (8 / _block(unit, 0) if unit.scale else 0)


def _block(unit: Unit, columns: int) -> int:
    return {"e8m0": _MX_BLOCK, "ue4m3": _NVFP4_BLOCK, None: columns}[unit.scale]


def quantize(unit: Unit, samples: Samples, *, top: float | None = None) -> Quantized:
    """``samples`` as operands of ``unit``.

    A row of 4096, or the block of 32 or 16 whose scale the unit multiplies, is scaled so that its largest magnitude
    meets ``top``, by default the largest number of the format. Scales that have a format are rounded down and up, and
    the one that leaves less error stays: formats, not scale rules, are compared here.
    """
    x = samples.values
    fmt = unit.element
    block = _block(unit, x.shape[1])
    blocks = x.reshape(x.shape[0], -1, block)
    ideal = np.abs(blocks).max(axis=-1) / (fmt.max if top is None else top)
    if unit.scale is None:
        codes = _codes(fmt, blocks, np.where(ideal > 0, ideal, 1))
        numbers = _decode(fmt, codes)
        return Quantized(codes, None, block, numbers, numbers * ideal[..., None]).shaped(x.shape)
    scale = unit.scale_format
    # NVFP4's tensor scale: the largest block scale becomes the largest E4M3 number.
    tensor_scale = ideal.max() / scale.max if unit.scale == "ue4m3" else 1.0
    tried = []
    for rounding in ("toward_zero", "away_from_zero"):
        wanted = np.maximum(ideal / tensor_scale, scale.smallest)
        chosen = reference.encode(scale, wanted, rounding=rounding)
        step = _decode(scale, chosen) * tensor_scale
        codes = _codes(fmt, blocks, step)
        numbers = _decode(fmt, codes)
        values = numbers * step[..., None]
        tried.append((np.square(values - blocks).sum(axis=-1), codes, chosen, numbers, values))
    low, high = tried
    up = high[0] < low[0]
    codes, numbers, values = (np.where(up[..., None], high[i], low[i]) for i in (1, 3, 4))
    return Quantized(codes, np.where(up, high[2], low[2]), block, numbers, values).shaped(x.shape)


def plain(unit: Unit, samples: Samples) -> Quantized:
    """``samples`` rounded to the format of ``unit`` as they are, without scales."""
    codes = reference.encode(unit.element, samples.values)
    numbers = _decode(unit.element, codes)
    return Quantized(codes, None, samples.values.shape[1], numbers, numbers)


def _codes(fmt: Format, blocks: NDArray[np.float64], step: NDArray[np.float64]) -> NDArray[np.unsignedinteger]:
    return reference.encode(fmt, blocks / step[..., None])


def _decode(fmt: Format, codes: NDArray[np.unsignedinteger]) -> NDArray[np.float64]:
    return reference.decode(fmt, codes).astype(np.float64)


def sqnr(unit: Unit, samples: Samples) -> float:
    """Signal over quantization noise of ``samples`` as operands of ``unit``, in dB."""
    noise = float(np.square(quantize(unit, samples).values - samples.values).sum())
    return 10 * log10(float(np.square(samples.values).sum()) / noise) if noise else inf
