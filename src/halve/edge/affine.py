"""Integers for numbers: value = scale * (code - zero), as ONNX's QuantizeLinear and DequantizeLinear have it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Activations = Literal["int8", "int16"]
TYPES: dict[Activations, np.dtype[np.uint8] | np.dtype[np.uint16]] = {"int8": np.dtype("u1"), "int16": np.dtype("u2")}
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True)
class Range:
    """What codes reach from and to. Contains 0, which has a code of its own."""

    low: float
    high: float

    def __post_init__(self) -> None:
        """Widen it to 0."""
        object.__setattr__(self, "low", min(float(self.low), 0.0))
        object.__setattr__(self, "high", max(float(self.high), 0.0))

    def widened(self, by: float) -> "Range":
        """``by`` times as far to both sides."""
        return Range(self.low * by, self.high * by)

    def affine(self, kind: Activations) -> tuple[np.float32, int]:
        """Scale and zero point of codes without sign, in as many bits as ``kind``."""
        levels = int(np.iinfo(TYPES[kind]).max)
        scale = np.float32(max((self.high - self.low) / levels, _TINY))
        return scale, int(np.clip(np.rint(-self.low / float(scale)), 0, levels))


def weight_scales(weight: Floats, axis: int | None, limit: int = 127) -> Floats:
    """Scales of symmetric codes from -``limit`` to ``limit``, one for every index of ``axis`` (None: one for all)."""
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
    found: Floats = np.maximum(np.abs(weight).max(axis=others) / np.float32(limit), _TINY).astype(np.float32)
    return found


def weight_codes(weight: Floats, scales: Floats, axis: int | None, limit: int = 127) -> NDArray[np.int8]:
    """The nearest codes."""
    codes: NDArray[np.int8] = np.clip(np.rint(weight / along(scales, axis, weight.ndim)), -limit, limit).astype(np.int8)
    return codes


def along(values: Floats, axis: int | None, dims: int) -> Floats:
    """``values`` shaped to stand along ``axis`` of an array of ``dims`` dimensions."""
    return values if axis is None else values.reshape([-1 if i == axis else 1 for i in range(dims)])
