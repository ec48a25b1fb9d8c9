"""What the numbers of one weight are like, and what use it makes of its codes. Gathered band by band."""

from dataclasses import dataclass, field
from math import log2, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halve import formats
from halve.codecs import dispatch
from halve.codecs.reference import value_table
from halve.evaluate.energy import energy
from halve.evaluate.estimate import finite
from halve.formats import Format
from halve.schemes import Block
from halve.schemes.qtensor import QTensor

FAR = 6.0  # rms: of Gaussian weights two in a thousand million lie beyond
_DRAWN_BITS = 8  # codes of more bits are too many to count one by one


@dataclass(frozen=True, slots=True)
class Spread:
    """How far the numbers of a weight lie from zero. NaN and Inf are counted, and are otherwise taken for zeros."""

    count: int
    amax: float
    rms: float
    kurtosis: float | None  # mean w^4 / rms^4, 3 for Gaussian weights; None where all are zero
    far: int  # numbers beyond 6 rms
    zeros: int
    nonfinite: int

    @property
    def crest(self) -> float | None:
        """The largest magnitude in rms; None where all are zero."""
        return self.amax / self.rms if self.rms else None

    @property
    def zero_share(self) -> float:
        """Share of numbers that are exactly zero."""
        return self.zeros / max(self.count, 1)

    @property
    def far_share(self) -> float:
        """Share of numbers beyond 6 rms."""
        return self.far / max(self.count, 1)

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "count": self.count,
            "amax": self.amax,
            "rms": self.rms,
            "crest": finite(self.crest),
            "kurtosis": finite(self.kurtosis),
            "beyond_6_rms": self.far,
            "zeros": self.zeros,
            "nonfinite": self.nonfinite,
        }


@dataclass(slots=True)
class Size:
    """The first reading of a weight: its largest magnitude and its energy."""

    count: int = 0
    zeros: int = 0
    nonfinite: int = 0
    amax: float = 0.0
    energy: float = 0.0

    def add(self, x: NDArray[np.float32]) -> None:
        """Add a band."""
        x, bad = _cleaned(x)
        self.nonfinite += bad
        self.count += x.size
        self.zeros += x.size - int(np.count_nonzero(x))
        self.amax = max(self.amax, dispatch.absmax(x))
        self.energy = energy(x, self.energy)

    @property
    def rms(self) -> float:
        """Root of the mean square; 0 of nothing."""
        return sqrt(self.energy / self.count) if self.count else 0.0


@dataclass(slots=True)
class Tails:
    """The second reading, which the rms of the first makes possible: how heavy the tails are."""

    size: Size
    far: int = 0
    fourth: float = 0.0  # sum of (w / rms)^4

    def add(self, x: NDArray[np.float32]) -> None:
        """Add a band."""
        if not self.size.rms:
            return
        square = np.square(_cleaned(x)[0] / np.float32(self.size.rms))
        self.far += int(np.count_nonzero(square > np.float32(FAR**2)))
        self.fourth = energy(square, self.fourth)

    def spread(self) -> Spread:
        """What both readings have found."""
        size = self.size
        kurtosis = self.fourth / size.count if size.rms else None
        return Spread(size.count, size.amax, size.rms, kurtosis, self.far, size.zeros, size.nonfinite)


def _cleaned(x: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    """``x`` with zeros for what is not finite, and how many those are."""
    good = np.isfinite(x)
    return (x, 0) if good.all() else (np.where(good, x, np.float32(0)), x.size - int(np.count_nonzero(good)))


@dataclass(frozen=True, slots=True)
class CodeUse:
    """What use a quantized weight makes of its codes and scales."""

    element: str
    histogram: tuple[int, ...]  # weights by code; empty for elements of more than 8 bits
    blocks: int
    zero_blocks: int  # that stand for zeros only
    scales: tuple[float, float] | None  # the smallest and the largest magnitude of a block scale
    tensor_scale: float | None

    @property
    def format(self) -> Format:
        """The number format of the codes."""
        return formats.get(self.element)

    @property
    def entropy(self) -> float | None:
        """Bits that a code carries: what a perfect lossless coder would need for it, neighbours unseen."""
        total = sum(self.histogram)
        shares = [n / total for n in self.histogram if n]
        return sum(-p * log2(p) for p in shares) if shares else None

    @property
    def unused_bits(self) -> float | None:
        """Bits of a code that a lossless coder could still save."""
        return None if self.entropy is None else self.format.bits - self.entropy

    @property
    def saturated(self) -> int | None:
        """Codes at either end. The largest weight of a block belongs there; more have been cut off, or share it."""
        if not self.histogram:
            return None
        used = [(value, n) for value, n in zip(value_table(self.format).tolist(), self.histogram, strict=True) if n]
        # Symmetric quantizers leave the lowest two's complement code, which has no positive twin, alone.
        low = self.format.min if any(value == self.format.min for value, _ in used) else -self.format.max
        return sum(n for value, n in used if value in (low, self.format.max))

    @property
    def saturated_share(self) -> float | None:
        """Share of codes at either end."""
        return None if self.saturated is None else self.saturated / max(sum(self.histogram), 1)

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "element": self.element,
            "histogram": list(self.histogram),
            "saturated": self.saturated,
            "entropy_bits": self.entropy,
            "blocks": self.blocks,
            "zero_blocks": self.zero_blocks,
            "scales": None if self.scales is None else [finite(scale) for scale in self.scales],
            "tensor_scale": finite(self.tensor_scale),
        }


@dataclass(slots=True)
class CodeCount:
    """Counts codes, blocks and scales of one weight of ``shape``."""

    block: Block
    shape: tuple[int, int]
    histogram: NDArray[np.int64] = field(init=False)
    zero_blocks: int = 0
    nonzero: int = 0
    lowest: float = np.inf
    highest: float = 0.0
    tensor_scale: float | None = None

    def __post_init__(self) -> None:
        """Begin with empty bins."""
        bits = self.block.element_format.bits
        self.histogram = np.zeros(1 << bits if bits <= _DRAWN_BITS else 0, np.int64)

    def add(self, q: QTensor, values: NDArray[np.float32]) -> None:
        """Add a band of rows that begins at a whole block, and the ``values`` that it stands for."""
        self.tensor_scale = q.tensor_scale
        if self.histogram.size:
            self.histogram += _bincount(q.codes.astype(np.uint8, copy=False), self.histogram.size)
        if q.scales.size:
            magnitudes = np.abs(q.scales)
            self.lowest = min(self.lowest, float(magnitudes.min()))
            self.highest = max(self.highest, float(magnitudes.max()))
        used = values != 0
        self.nonzero += int(np.count_nonzero(used))
        if self.block.scale is not None and self.block.block_size != "tensor" and values.size:
            height, width = self.block.tile(*q.shape)
            blocks = np.logical_or.reduceat(used, np.arange(0, q.shape[1], width), axis=1)
            if height > 1:
                blocks = np.logical_or.reduceat(blocks, np.arange(0, q.shape[0], height), axis=0)
            self.zero_blocks += blocks.size - int(np.count_nonzero(blocks))

    def use(self) -> CodeUse:
        """What has been found."""
        down, across = self.block.scale_shape(*self.shape)
        whole = self.block.block_size == "tensor" and down * across
        return CodeUse(
            element=self.block.element,
            histogram=tuple(self.histogram.tolist()),
            blocks=down * across,
            zero_blocks=int(not self.nonzero) if whole else self.zero_blocks,
            scales=(self.lowest, self.highest) if self.lowest <= self.highest else None,
            tensor_scale=self.tensor_scale,
        )


def _bincount(codes: NDArray[np.uint8], bins: int) -> NDArray[np.int64]:
    """How often each code occurs. Pairs of codes are counted, which halves the time."""
    flat = codes.reshape(-1)
    pairs = np.bincount(flat[: flat.size // 2 * 2].view(np.uint16), minlength=1 << 16).reshape(256, 256)
    counts: NDArray[np.int64] = pairs.sum(axis=0) + pairs.sum(axis=1)
    if flat.size % 2:
        counts[flat[-1]] += 1
    return counts[:bins]
