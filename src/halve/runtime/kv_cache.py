"""Keys and values of the tokens that a model has already read."""

from collections.abc import Callable, Sequence
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Store = Callable[[int, Array, Array], tuple[Array, Array]]

_FIRST = 64  # positions; doubled as needed, up to the context


class Context:
    """``tokens`` whose keys and values are remembered; the classes below say where."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def __len__(self) -> int:
        """How many tokens it holds."""
        return len(self.tokens)

    def commit(self, tokens: Sequence[int]) -> None:
        """``tokens`` have passed all layers."""
        self.tokens.extend(tokens)

    def keep(self, tokens: Sequence[int]) -> int:
        """Forget everything after the longest common beginning with ``tokens``; return its length."""
        pairs = zip(self.tokens, tokens, strict=False)
        length = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        del self.tokens[length:]
        return length


class KvCache(Context):
    """One layer's keys and values after another, [kv_heads, positions, head_dim], keys after their rotation.

    ``store``, where given, is applied to a layer's number, its new keys and its new values [kv_heads, T, head_dim] as
    they are stored: attention sees what it returns, for the current tokens too. ``long``
    says that the keys are rotated as in a long text, where that is another rotation (LongRoPE).
    """

    def __init__(self, layers: int, kv_heads: int, head_dim: int, context: int, store: Store | None = None) -> None:
        super().__init__()
        self.long = False
        self._store = store
        self._context = context
        empty = np.empty((2, kv_heads, 0, head_dim), np.float32)
        self._pairs: list[Array] = [empty] * layers

    @property
    def nbytes(self) -> int:
        """Bytes of the positions that there is room for."""
        return sum(pair.nbytes for pair in self._pairs)

    def extend(self, layer: int, keys: Array, values: Array) -> tuple[Array, Array]:
        """Store ``keys`` and ``values`` [kv_heads, T, head_dim] of the next T tokens; return all that ``layer`` has.

        They count only when :meth:`commit` has been told the tokens, so that a forward pass that was given up leaves
        no trace.
        """
        first, stop = len(self), len(self) + keys.shape[1]
        pair = self._pairs[layer]
        if stop > pair.shape[2]:
            capacity = min(max(_FIRST, 2 * pair.shape[2], stop), self._context)
            grown = np.empty((*pair.shape[:2], capacity, pair.shape[3]), np.float32)
            grown[:, :, :first] = pair[:, :, :first]
            self._pairs[layer] = pair = grown
        for stored, new in zip(pair, self._store(layer, keys, values) if self._store else (keys, values), strict=True):
            stored[:, first:stop] = new
        return pair[0, :, :stop], pair[1, :, :stop]
