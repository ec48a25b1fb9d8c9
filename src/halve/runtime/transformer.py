"""The decoder of every family in float32: one forward pass, which reads a `halve.models.decoder.Decoder`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from halve.checkpoint.place import Place
from halve.models.decoder import EMBEDDING, NORM, Decoder
from halve.models.linear import OUTPUT_HEAD
from halve.runtime import rope
from halve.runtime.attention import attend, capped
from halve.runtime.kv_cache import KvCache, Store
from halve.runtime.layer import Layer, Parts
from halve.runtime.linear import Array, Linear
from halve.runtime.model import Model


class Transformer(Model):
    """The model that ``decoder`` describes, its ``parameters`` still to be filled.

    With ``layer`` only that decoder layer, which `decode` runs, so that a model need not fit into memory.
    """

    def __init__(self, path: Place, config: dict[str, Any], decoder: Decoder, layer: int | None = None) -> None:
        self.decoder = decoder
        self.geometry = geometry = decoder.geometry
        super().__init__(path, config, vocabulary=geometry.vocab, context=decoder.context)
        parts = Parts(decoder)
        self.parameters, self.linears = parts.parameters, parts.linears
        if layer is not None:
            self._layers = [parts.layer(layer)]
            return
        table = geometry.vocab, geometry.hidden
        self._embedding = parts.array(f"{EMBEDDING}.weight", table)
        self._layers = [parts.layer(index) for index in range(geometry.layers)]
        self._norm = parts.array(f"{NORM}.weight", (geometry.hidden,))
        head = self._embedding if geometry.tied else parts.array(f"{OUTPUT_HEAD}.weight", table)
        self._head = parts.own(Linear(OUTPUT_HEAD, head, tied=geometry.tied))

    def new_cache(self, store: Store | None = None) -> KvCache:
        """An empty cache for this model."""
        geometry = self.geometry
        return KvCache(geometry.layers, geometry.kv_heads, geometry.head_dim, self.context, store)

    def _forward(self, tokens: NDArray[np.int64], cache: KvCache | None, start: int) -> Array:
        earlier: list[int] = []
        if cache is not None and cache.long != self.decoder.is_long(len(cache) + len(tokens)):
            # Its keys are rotated for a text of another length: all of it is read again, as without a cache.
            earlier = list(cache.tokens)
            cache.keep(())
            cache.long = not cache.long
            tokens, start = np.array([*earlier, *tokens], np.int64), start + len(earlier)
        x = self._embedding[tokens]
        if self.decoder.embedding_scale != 1:
            x *= np.float32(self.decoder.embedding_scale)
        self._check_finite(EMBEDDING, x)
        last = self._normed(self._decode(x, cache)[start:], self._norm)
        self._check_finite(NORM, last)
        if cache is not None:
            cache.commit(earlier)
        logits = self._head(last, self.observe)
        self._check_finite(OUTPUT_HEAD, logits, weights=EMBEDDING if self._head.tied else OUTPUT_HEAD)
        if self.decoder.logit_cap is not None:
            capped(logits, self.decoder.logit_cap)
        return logits

    def decode(self, hidden: Array) -> Array:
        """Without a cache."""
        with np.errstate(all="ignore"):  # what is not finite is found and named
            return self._decode(hidden.copy(), None)

    def _decode(self, x: Array, cache: KvCache | None) -> Array:
        """Run the layers over ``x`` in place."""
        first = 0 if cache is None else len(cache)
        angles = [rope.table(rotary, first, len(x)) for rotary in self.decoder.rotaries]
        for index, layer in enumerate(self._layers):
            x += self._attention(layer, self._normed(x, layer.input_norm), angles[layer.rotary], index, cache)
            x += self._mlp(layer, self._normed(x, layer.mlp_norm))
            self._check_finite(layer.name, x)
        return x

    def _attention(
        self, layer: Layer, x: Array, angles: tuple[Array, Array], index: int, cache: KvCache | None
    ) -> Array:
        decoder = self.decoder
        q, k, v = (part.reshape(len(x), -1, self.geometry.head_dim) for part in layer.qkv(x, self.observe))
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = self._normed(q, layer.q_norm), self._normed(k, layer.k_norm)
        queries, keys, values = rope.rotate(q, *angles), rope.rotate(k, *angles), v.swapaxes(0, 1)
        queries *= np.float32(decoder.attention_scale)
        if self.observe_kv is not None:
            self.observe_kv(f"{layer.name}.self_attn", keys, values)
        if cache is not None:
            keys, values = cache.extend(index, keys, values)
        mixed = attend(queries, keys, values, window=layer.window, cap=decoder.attention_cap, sinks=layer.sinks)
        outputs = layer.o(mixed, self.observe)
        return outputs if layer.attention_norm is None else self._normed(outputs, layer.attention_norm)

    def _mlp(self, layer: Layer, x: Array) -> Array:
        outputs = layer.mlp(x, self.observe)
        return outputs if layer.output_norm is None else self._normed(outputs, layer.output_norm)

    def _normed(self, x: Array, weight: Array) -> Array:
        """RMSNorm over the last axis."""
        mean_square = np.einsum("...i,...i->...", x, x) / np.float32(x.shape[-1])
        normed: Array = x * (np.float32(1) / np.sqrt(mean_square + np.float32(self.decoder.eps)))[..., None]
        normed *= weight + np.float32(self.decoder.norm_offset) if self.decoder.norm_offset else weight
        return normed
