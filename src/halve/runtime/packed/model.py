"""A decoder of packed weights: one native call from tokens to logits."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from halve.checkpoint.place import Place
from halve.codecs import dispatch
from halve.errors import CheckpointError, UnsupportedError
from halve.models.decoder import EMBEDDING, NORM, Decoder
from halve.models.geometry import Geometry
from halve.models.linear import OUTPUT_HEAD
from halve.models.rotary import Rotary
from halve.runtime.language_model import LanguageModel
from halve.runtime.packed import kernels
from halve.runtime.packed.cache import Kv, PackedCache
from halve.runtime.packed.kernels import Mode
from halve.runtime.packed.layer import Array, Parts, norm
from halve.runtime.packed.weight import Weight

if TYPE_CHECKING:
    from halve._native import Pool

CHUNK = 256  # tokens that pass the layers together
HEAD_DIM = 16  # heads have a multiple of as many components


class PackedModel(LanguageModel[PackedCache]):
    """Computed from ``weights`` (2-D) and ``vectors`` (1-D) by tensor name; `load` reads them.

    ``mode`` is in what activations are multiplied; `halve.runtime.packed.product` says what that means. ``kv`` is in
    what its caches are stored, in FP8 divided by ``kv_scales``: those of keys and values by layer, 1 where there are
    none. ``packed_bytes`` are all weights, ``nbytes`` those that decoding a token reads, of experts as many as it
    takes; ``blocks`` says how each weight is stored. Raises UnsupportedError for a decoder that native code cannot
    compute.
    """

    def __init__(
        self,
        path: Place,
        config: dict[str, Any],
        decoder: Decoder,
        *,
        weights: Mapping[str, Weight],
        vectors: Mapping[str, Array],
        pool: "Pool",
        mode: Mode,
        kv: Kv = "fp16",
        kv_scales: Mapping[int, tuple[float, float]] = MappingProxyType({}),
    ) -> None:
        self.geometry: Geometry = decoder.geometry
        super().__init__(path, config, vocabulary=self.geometry.vocab, context=decoder.context)
        check(decoder)
        native = kernels.kernels()
        self._mode, self._kv = mode, kv
        self.use(pool)
        self.blocks = {name: weight.block for name, weight in weights.items()}
        embedding = weights[f"{EMBEDDING}.weight"].native()
        self.packed_bytes = sum(weight.size for weight in weights.values())
        self.nbytes = _bytes_read(decoder, weights)
        experts = self.geometry.experts
        self._is_long = decoder.is_long
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
            embedding_scale=decoder.embedding_scale,
            attention_scale=decoder.attention_scale,
            attention_cap=decoder.attention_cap or 0.0,
            logit_cap=decoder.logit_cap or 0.0,
            gate=decoder.activation,
            gate_limit=decoder.activation_limit,
            experts=0 if experts is None else experts.count,
            experts_per_token=decoder.experts_per_token,
            experts_normalized=decoder.experts_normalized,
            expert_intermediate=0 if experts is None else experts.intermediate,
            experts_in_turns=experts is not None and experts.fused,
            rotations=[_rotation(rotary) for rotary in decoder.rotaries],
            embedding=embedding,
            layers=[
                Parts(decoder, index, weights, vectors).layer(kv_scales.get(index, (1.0, 1.0)))
                for index in range(self.geometry.layers)
            ],
            norm=norm(decoder, vectors[f"{NORM}.weight"]),
            head=embedding if self.geometry.tied else weights[f"{OUTPUT_HEAD}.weight"].native(),
        )

    def use(self, pool: "Pool") -> None:
        """Compute on the threads of ``pool`` from now on."""
        self._pool = pool
        threads = f"{pool.threads} thread{'s' if pool.threads > 1 else ''}"
        cache = ", FP8 cache" if self._kv == "fp8" else ""
        self.engine = f"packed path ({kernels.kernels().isa}, {self._mode} activations{cache}, {threads})"

    def new_cache(self) -> PackedCache:
        """An empty cache for this model."""
        geometry = self.geometry
        return PackedCache(geometry.layers, geometry.kv_heads, geometry.head_dim, self.context, self._kv)

    def _forward(self, tokens: NDArray[np.int64], cache: PackedCache | None, start: int) -> Array:
        used = self.new_cache() if cache is None else cache
        self._turn(used, len(used) + len(tokens))
        return self._finite(self._read(tokens, used, start))

    def _turn(self, cache: PackedCache, length: int) -> None:
        """Have ``cache`` rotated as a text of ``length`` is: read again where that is another rotation (LongRoPE)."""
        if cache.long == self._is_long(length):
            return
        tokens = np.array(cache.tokens, np.int64)
        cache.keep(())
        cache.long = not cache.long
        self._read(tokens, cache, len(tokens))
        cache.commit(tokens.tolist())

    def _read(self, tokens: NDArray[np.int64], used: PackedCache, start: int) -> Array:
        """Logits after all but the first ``start`` of ``tokens``, whose keys and values go into ``used``."""
        used.reserve(len(tokens))
        logits = np.empty((max(len(tokens) - start, 0), self.vocabulary), np.float32)
        for first in range(0, len(tokens), CHUNK):
            stop = min(first + CHUNK, len(tokens))
            self._decoder.step(
                self._pool,
                tokens[first:stop],
                position=len(used) + first,
                in_long_text=used.long,
                keys=used.keys,
                values=used.values,
                logits=logits[max(first - start, 0) : max(stop - start, 0)],
            )
        return logits

    def next_logits(self, tokens: Sequence[int], caches: Sequence[PackedCache]) -> Array:
        """Logits [n, vocabulary] after ``tokens`` [n], each of which follows what its own one of ``caches`` holds.

        The weights are read once for all of them. Tokens of up to 32 sequences get the bits that they get alone.

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
        for cache in caches:
            self._turn(cache, len(cache) + 1)
            cache.reserve(1)
        logits = np.empty((len(ids), self.vocabulary), np.float32)
        self._decoder.step_each(
            self._pool,
            ids,
            positions=[len(cache) for cache in caches],
            in_long_text=[cache.long for cache in caches],
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
    geometry = decoder.geometry
    heads = f"heads of {geometry.head_dim} components (they want a multiple of {HEAD_DIM})"
    yield heads, bool(geometry.head_dim % HEAD_DIM)
    yield "fused weights that do not part at multiples of 16", geometry.fused and bool(geometry.intermediate % HEAD_DIM)


def _bytes_read(decoder: Decoder, weights: Mapping[str, Weight]) -> int:
    """Bytes of the weights that decoding a token reads; those of its experts are as many as the average's."""
    geometry = decoder.geometry
    always = of_experts = 0
    for name, weight in weights.items():
        if ".experts." in name:
            of_experts += weight.size
        elif geometry.tied or name != f"{EMBEDDING}.weight":
            always += weight.size
    if geometry.experts is None:
        return always
    return always + of_experts * decoder.experts_per_token // geometry.experts.count


def _rotation(rotary: Rotary) -> tuple[Array, Array | None, float]:
    """As native code takes it."""
    long = rotary.long_frequencies
    return dispatch.plain(rotary.frequencies), None if long is None else dispatch.plain(long), float(rotary.scale)
