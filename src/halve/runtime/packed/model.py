"""A decoder of packed weights: one native call from tokens to logits."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from halve.errors import CheckpointError, UnsupportedError
from halve.models.decoder import EMBEDDING, NORM, Decoder
from halve.models.geometry import Geometry
from halve.models.linear import OUTPUT_HEAD
from halve.runtime.language_model import LanguageModel
from halve.runtime.packed import kernels
from halve.runtime.packed.cache import PackedCache
from halve.runtime.packed.kernels import Mode
from halve.runtime.packed.weight import Weight

if TYPE_CHECKING:
    from halve._native import DecoderLayer, PackedWeight, Pool

Array = NDArray[np.float32]
CHUNK = 256  # tokens that pass the layers together
HEAD_DIM = 16  # heads have a multiple of as many components

_LINEARS = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


class PackedModel(LanguageModel[PackedCache]):
    """Computed from ``weights`` (2-D) and ``vectors`` (1-D) by tensor name; `load` reads them.

    ``mode`` is in what activations are multiplied; `halve.runtime.packed.product` says what that means. ``nbytes`` are
    the weights that decoding a token reads, ``blocks`` how each weight is stored. Raises UnsupportedError for a decoder
    that native code cannot compute.
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        decoder: Decoder,
        *,
        weights: Mapping[str, Weight],
        vectors: Mapping[str, Array],
        pool: "Pool",
        mode: Mode,
    ) -> None:
        self.geometry: Geometry = decoder.geometry
        super().__init__(path, config, vocabulary=self.geometry.vocab, context=decoder.context)
        check(decoder)
        native = kernels.kernels()
        self._mode = mode
        self.use(pool)
        self.blocks = {name: weight.block for name, weight in weights.items()}
        packed = {name: weight.native() for name, weight in weights.items()}
        head = packed[f"{EMBEDDING if self.geometry.tied else OUTPUT_HEAD}.weight"]
        self.nbytes = sum(
            weight.nbytes(weight.block, weight.rows, weight.columns)
            for name, weight in weights.items()
            if self.geometry.tied or name != f"{EMBEDDING}.weight"
        )
        self._decoder = kernels.native.Decoder(
            native,
            mode=mode,
            hidden=self.geometry.hidden,
            heads=self.geometry.heads,
            kv_heads=self.geometry.kv_heads,
            head_dim=self.geometry.head_dim,
            intermediate=self.geometry.intermediate,
            vocabulary=self.geometry.vocab,
            eps=decoder.eps,
            frequencies=decoder.rotaries[0].frequencies,
            embedding=packed[f"{EMBEDDING}.weight"],
            layers=[_layer(f"model.layers.{i}", packed, vectors, window) for i, window in enumerate(decoder.windows)],
            norm=vectors[f"{NORM}.weight"],
            head=head,
        )

    def use(self, pool: "Pool") -> None:
        """Compute on the threads of ``pool`` from now on."""
        self._pool = pool
        threads = f"{pool.threads} thread{'s' if pool.threads > 1 else ''}"
        self.engine = f"packed path ({kernels.kernels().isa}, {self._mode} activations, {threads})"

    def new_cache(self) -> PackedCache:
        """An empty cache for this model."""
        geometry = self.geometry
        return PackedCache(geometry.layers, geometry.kv_heads, geometry.head_dim, self.context)

    def _forward(self, tokens: NDArray[np.int64], cache: PackedCache | None, start: int) -> Array:
        used = self.new_cache() if cache is None else cache
        used.reserve(len(tokens))
        logits = np.empty((max(len(tokens) - start, 0), self.vocabulary), np.float32)
        for first in range(0, len(tokens), CHUNK):
            stop = min(first + CHUNK, len(tokens))
            self._decoder.step(
                self._pool,
                tokens[first:stop],
                position=len(used) + first,
                keys=used.keys,
                values=used.values,
                logits=logits[max(first - start, 0) : max(stop - start, 0)],
            )
        return self._finite(logits)

    def next_logits(self, tokens: Sequence[int], caches: Sequence[PackedCache]) -> Array:
        """Logits [n, vocabulary] after ``tokens`` [n], each of which follows what its own one of ``caches`` holds.

        The weights are read once for all of them. Tokens of up to 4 sequences get the bits that they get alone.

        Raises UnsupportedError for no tokens, for caches that are not as many or not different ones and where a context
        is full, CheckpointError for tokens outside the vocabulary.
        """
        if not len(tokens) or len({id(cache) for cache in caches}) != len(tokens):
            raise UnsupportedError(
                f"{len(tokens)} tokens and {len(caches)} caches", hint="give each token a cache of its own"
            )
        ids = self._checked(np.asarray(tokens))
        for cache in caches:
            self.check_length(len(cache) + 1)
            cache.reserve(1)
        logits = np.empty((len(ids), self.vocabulary), np.float32)
        self._decoder.step_each(
            self._pool,
            ids,
            positions=[len(cache) for cache in caches],
            keys=[cache.keys for cache in caches],
            values=[cache.values for cache in caches],
            logits=logits,
        )
        self._finite(logits)
        for cache, token in zip(caches, ids.tolist(), strict=True):
            cache.commit([token])
        return logits

    def _finite(self, logits: Array) -> Array:
        if not np.isfinite(logits).all():
            raise CheckpointError(
                f"{self.path}: the logits are not finite",
                hint="`halve run --reference` names the first layer where that is so; `halve verify` finds damage",
            )
        return logits


def check(decoder: Decoder) -> None:
    """Raise UnsupportedError where native code cannot compute ``decoder``."""
    why = next((why for why, holds in _refused(decoder) if holds), None)
    if why is not None:
        raise UnsupportedError(
            f"{decoder.geometry.name}: packed models cannot compute {why}", hint="the reference path can: --reference"
        )


def _refused(decoder: Decoder) -> Iterator[tuple[str, bool]]:
    geometry, rotary = decoder.geometry, decoder.rotaries[0]
    yield (
        f"heads of {geometry.head_dim} components (they want a multiple of {HEAD_DIM})",
        bool(geometry.head_dim % HEAD_DIM),
    )
    yield "experts", geometry.experts is not None
    yield "attention sinks", geometry.sinks
    yield "norms behind attention", geometry.output_norms
    yield "fused weights", geometry.fused
    yield f"the activation {decoder.activation}", decoder.activation != "silu"
    yield "capped scores", decoder.attention_cap is not None or decoder.logit_cap is not None
    yield "scaled embeddings", decoder.embedding_scale != 1 or decoder.norm_offset != 0
    yield "several rotations", len(decoder.rotaries) > 1 or len(rotary.frequencies) != geometry.head_dim // 2
    yield "scaled rotations", rotary.scale != 1 or rotary.long_frequencies is not None
    yield "scaled scores", decoder.attention_scale != geometry.head_dim**-0.5


def _layer(
    name: str, weights: "Mapping[str, PackedWeight]", vectors: Mapping[str, Array], window: int | None
) -> "DecoderLayer":
    return kernels.native.DecoderLayer(
        input_norm=vectors[f"{name}.input_layernorm.weight"],
        mlp_norm=vectors[f"{name}.post_attention_layernorm.weight"],
        q_norm=vectors.get(f"{name}.self_attn.q_norm.weight"),
        k_norm=vectors.get(f"{name}.self_attn.k_norm.weight"),
        linears=[weights[f"{name}.{linear}.weight"] for linear in _LINEARS],
        biases=[vectors.get(f"{name}.{linear}.bias") for linear in _LINEARS],
        window=window or 0,
    )
