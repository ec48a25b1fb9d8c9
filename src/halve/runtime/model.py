"""The reference path: models in float32, whose every layer can be watched."""

from abc import abstractmethod
from typing import Any

import numpy as np

from halve.checkpoint.place import Place
from halve.errors import CheckpointError
from halve.runtime.kv_cache import KvCache, Store
from halve.runtime.language_model import LanguageModel
from halve.runtime.linear import Array, Linear, Observe


class Model(LanguageModel[KvCache]):
    """A decoder in float32, the reference path. `halve.load` opens one.

    ``linears`` are the linear layers by module name, in the order in which they run, ``lm_head`` last. ``observe``,
    where set, is called with the name, inputs [T, in] and outputs [T, out] of each of them, and ``observe_kv`` with the
    module name of each attention and its new keys and values [kv_heads, T, head_dim]. ``parameters`` are the arrays
    that loading fills, by tensor name. One thread at a time.
    """

    engine = "reference path"

    def __init__(self, path: Place, config: dict[str, Any], *, vocabulary: int, context: int) -> None:
        super().__init__(path, config, vocabulary=vocabulary, context=context)
        self.linears: dict[str, Linear] = {}
        self.parameters: dict[str, Array] = {}
        self.observe: Observe | None = None
        self.observe_kv: Observe | None = None

    @abstractmethod
    def new_cache(self, store: Store | None = None) -> KvCache:
        """An empty cache for this model; ``store`` is applied to keys and values as they are stored."""

    @abstractmethod
    def decode(self, hidden: Array) -> Array:
        """Hidden states [T, hidden] of a text, from its first token on, after the decoder layers of this model."""

    def _check_finite(self, where: str, outputs: Array, *, weights: str = "") -> None:
        """Raise CheckpointError naming ``where`` and, if it is their fault, the tensor of module ``weights``."""
        if np.isfinite(outputs).all():
            return
        inside = [name for name in self.parameters if name.startswith(f"{weights or where}.")]
        bad = next((name for name in inside if not np.isfinite(self.parameters[name]).all()), None)
        raise CheckpointError(
            f"{self.path}: the outputs of {where} are not finite, and it is the first such layer: "
            + ("float32 overflows there" if bad is None else f"{bad} holds NaN or Inf"),
            hint="`halve verify` finds damaged tensors; fetch or quantize the checkpoint again",
        )
