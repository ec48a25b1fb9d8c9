"""Keys and values of a packed model, in FP16."""

import numpy as np
from numpy.typing import NDArray

from halve.runtime.kv_cache import Context

_FIRST = 256  # positions; doubled as needed, up to the context
_TILE = 16  # positions: keys lie in tiles of as many


class PackedCache(Context):
    """``keys`` and ``values`` are the bits of halves, [layers, kv_heads, positions, head_dim].

    Within its head, keys lie in tiles of 16 positions, [positions / 16, head_dim, 16] (native/transformer.inc).
    """

    def __init__(self, layers: int, kv_heads: int, head_dim: int, context: int) -> None:
        super().__init__()
        self._shape = layers, kv_heads, head_dim
        self._context = context
        self.keys = self.values = self._empty(0)

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

    def _empty(self, positions: int) -> NDArray[np.uint16]:
        layers, kv_heads, head_dim = self._shape
        return np.zeros((layers, kv_heads, positions, head_dim), np.uint16)
