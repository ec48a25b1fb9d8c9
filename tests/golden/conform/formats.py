"""The formats in which halve is compared with other tools, and the hash of what a weight became."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from halve.schemes import Block
from halve.schemes.conform import Tool
from halve.schemes.quantize import ScaleRule

_MXFP4 = Block(element="fp4_e2m1", scale="e8m0", block_size=32)
FORMATS: dict[str, tuple[Block, ScaleRule | None]] = {
    "nvfp4": (Block(element="fp4_e2m1", scale="ue4m3", block_size=16, tensor_scale=True), None),
    "mxfp4": (_MXFP4, None),
    "mxfp4_floor": (_MXFP4, "floor"),
    "mxfp4_even": (_MXFP4, "even"),
    "mxfp8": (replace(_MXFP4, element="fp8_e4m3"), None),
    "fp8_row": (Block(element="fp8_e4m3"), None),
    "fp8_tensor": (Block(element="fp8_e4m3", block_size="tensor"), None),
    "int8_row": (Block(element="int8"), None),
    "int4": (Block(element="int4", block_size=128), None),
    "uint4": (Block(element="uint4", block_size=128, zero_point=True), None),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """What a weight became, in halve's terms; ``tensor`` is the number that the tool's files hold."""

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zeros: NDArray[np.uint8] | None = None
    tensor: np.float32 | None = None

    def digest(self) -> str:
        """The first 16 digits of sha256 over everything."""
        parts = (self.codes, self.scales, self.zeros, self.tensor)
        there = [np.ascontiguousarray(part).tobytes() for part in parts if part is not None]
        return hashlib.sha256(b"".join(there)).hexdigest()[:16]


def ours(tool: Tool, name: str, w: NDArray[np.floating], scale: str) -> Tensor:
    """What halve makes of ``w`` in the mode of ``tool``, with scales stored as ``scale`` where that is open."""
    block, rule = FORMATS[name]
    q = tool.quantize(replace(block, scale=scale) if block.scale == "fp32" else block, w, rule=rule)
    if q.tensor_scale is None:
        return Tensor(q.codes, q.scales, q.zeros)
    number = 1 / q.tensor_scale if tool.name == "compressed-tensors" else q.tensor_scale
    return Tensor(q.codes, q.scales, tensor=np.float32(number))
