"""Keys and values of a packed model, in FP16 or FP8."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from halve.runtime.kv_cache import Context

Kv = Literal["fp16", "fp8"]
Codes = NDArray[np.uint16] | NDArray[np.uint8]

_FIRST = 256  # positions; doubled as needed, up to the context
_TILE = 16  # positions: keys lie in tiles of as many
_DTYPES: dict[Kv, np.dtype[np.uint16] | np.dtype[np.uint8]] = {"fp16": np.dtype("u2"), "fp8": np.dtype("u1")}


class PackedCache(Context):
    """``keys`` and ``values`` are the bits of halves, or of E4M3 (saturating), [layers, kv_heads, positions, head_dim].

    Within its head, keys lie in tiles of 16 positions, [positions / 16, head_dim, 16] (native/transformer.inc).
    ``long`` says that they are rotated as in a long text, where that is another rotation (LongRoPE).
    """

    def __init__(self, layers: int, kv_heads: int, head_dim: int, context: int, kv: Kv = "fp16") -> None:
        super().__init__()
        self.long = False
        self._shape = layers, kv_heads, head_dim
        self._context = context
        self._dtype = _DTYPES[kv]
        self.keys = self.values = self._empty(0)

    @property
    def nbytes(self) -> int:
        """Bytes of the positions that there is room for."""
        return self.keys.nbytes + self.values.nbytes

    def reserve(self, tokens: int) -> None:
        """Make room for ``tokens`` more."""
        wanted, capacity = len(self) + tokens, self.keys.shape[2]
        if wanted <= capacity:
            return
        grown = min(max(_FIRST, 2 * capacity, wanted), max(self._context, wanted))
        grown = -(-grown // _TILE) * _TILE
        used = -(-len(self) // _TILE) * _TILE  # a tile in use moves whole
        for name in ("keys", "values"):
            array = self._empty(grown)
            array[:, :, :used] = getattr(self, name)[:, :, :used]
            setattr(self, name, array)

    def _empty(self, positions: int) -> Codes:
        layers, kv_heads, head_dim = self._shape
        codes: Codes = np.zeros((layers, kv_heads, positions, head_dim), self._dtype)
        return codes
