"""The Llama family: Llama, SmolLM2, Mistral, Qwen2, Qwen3.

A layer is  x += o(attend(rope(q), rope(k), v)); x += down(silu(gate) * up),  each behind an RMSNorm. The members differ
in four places only: biases of q, k, v (Qwen2), a norm on the heads of q and k (Qwen3), a sliding window (Mistral, and
Qwen where switched on), and whether the output head is the embedding.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from halve.models.decoder import EMBEDDING, NORM, Decoder
from halve.models.geometry import Geometry
from halve.models.linear import OUTPUT_HEAD
from halve.runtime import rope
from halve.runtime.attention import attend
from halve.runtime.kv_cache import KvCache, Store
from halve.runtime.linear import Array, Fused, Linear
from halve.runtime.model import Model

_BAND = 64


class Llama(Model):
    """A decoder of the Llama family."""

    model_types: ClassVar[tuple[str, ...]] = ("llama", "mistral", "qwen2", "qwen3")
    embedding: ClassVar[str] = f"{EMBEDDING}.weight"

    @classmethod
    def shapes(cls, config: dict[str, Any], name: str) -> Iterable[tuple[str, tuple[int, ...]]]:
        """From the geometry."""
        geometry = Geometry.from_config(config, name=name)
        return ((parameter.name, parameter.shape) for parameter in geometry.parameters)

    @classmethod
    def depth(cls, config: dict[str, Any], name: str) -> int:
        """From the geometry."""
        return Geometry.from_config(config, name=name).layers

    @classmethod
    def build(cls, path: Path, config: dict[str, Any], layer: int | None = None) -> "Llama":
        """From config.json."""
        return cls(path, config, layer)

    def __init__(self, path: Path, config: dict[str, Any], layer: int | None = None) -> None:
        decoder = Decoder.from_config(config, name=str(path))
        self.geometry = geometry = decoder.geometry
        super().__init__(path, config, vocabulary=geometry.vocab, context=decoder.context)
        self._eps, self._frequencies = decoder.eps, decoder.frequencies
        if layer is not None:
            self._layers = [self._layer(f"model.layers.{layer}", decoder.windows[layer])]
            return
        self._embedding = self._parameter(f"{EMBEDDING}.weight", geometry.vocab, geometry.hidden)
        self._layers = [self._layer(f"model.layers.{index}", window) for index, window in enumerate(decoder.windows)]
        self._norm = self._parameter(f"{NORM}.weight", geometry.hidden)
        head = (
            self._embedding
            if geometry.tied
            else self._parameter(f"{OUTPUT_HEAD}.weight", geometry.vocab, geometry.hidden)
        )
        self._head = self._own(Linear(OUTPUT_HEAD, head, tied=geometry.tied))

    def new_cache(self, store: Store | None = None) -> KvCache:
        """An empty cache for this model."""
        geometry = self.geometry
        return KvCache(geometry.layers, geometry.kv_heads, geometry.head_dim, self.context, store)

    def _forward(self, tokens: NDArray[np.int64], cache: KvCache | None, start: int) -> Array:
        x = self._embedding[tokens]
        self._check_finite(EMBEDDING, x)
        last = self._normed(self._decode(x, cache)[start:], self._norm)
        self._check_finite(NORM, last)
        logits = self._head(last, self.observe)
        self._check_finite(OUTPUT_HEAD, logits, weights=EMBEDDING if self._head.tied else OUTPUT_HEAD)
        return logits

    def decode(self, hidden: Array) -> Array:
        """Without a cache."""
        with np.errstate(all="ignore"):  # what is not finite is found and named
            return self._decode(hidden.copy(), None)

    def _decode(self, x: Array, cache: KvCache | None) -> Array:
        """Run the layers over ``x`` in place."""
        angles = rope.table(self._frequencies, 0 if cache is None else len(cache), len(x))
        for index, layer in enumerate(self._layers):
            x += self._attention(layer, self._normed(x, layer.input_norm), angles, index, cache)
            x += self._mlp(layer, self._normed(x, layer.mlp_norm))
            self._check_finite(layer.name, x)
        return x

    def _attention(
        self, layer: "_Layer", x: Array, angles: tuple[Array, Array], index: int, cache: KvCache | None
    ) -> Array:
        q, k, v = (part.reshape(len(x), -1, self.geometry.head_dim) for part in layer.qkv(x, self.observe))
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = self._normed(q, layer.q_norm), self._normed(k, layer.k_norm)
        queries, keys, values = rope.rotate(q, *angles), rope.rotate(k, *angles), v.swapaxes(0, 1)
        queries *= np.float32(self.geometry.head_dim**-0.5)
        if self.observe_kv is not None:
            self.observe_kv(f"{layer.name}.self_attn", keys, values)
        if cache is not None:
            keys, values = cache.extend(index, keys, values)
        return layer.o(attend(queries, keys, values, window=layer.window), self.observe)

    def _mlp(self, layer: "_Layer", x: Array) -> Array:
        gate, up = layer.gate_up(x, self.observe)
        return layer.down(_silu_product(gate, up), self.observe)

    def _normed(self, x: Array, weight: Array) -> Array:
        """RMSNorm over the last axis."""
        mean_square = np.einsum("...i,...i->...", x, x) / np.float32(x.shape[-1])
        normed: Array = x * (np.float32(1) / np.sqrt(mean_square + np.float32(self._eps)))[..., None]
        normed *= weight
        return normed

    def _layer(self, name: str, window: int | None) -> "_Layer":
        g = self.geometry
        queries, keys = g.heads * g.head_dim, g.kv_heads * g.head_dim
        attention, mlp = f"{name}.self_attn", f"{name}.mlp"
        qkv = {f"{attention}.q_proj": queries, f"{attention}.k_proj": keys, f"{attention}.v_proj": keys}
        gate_up = {f"{mlp}.gate_proj": g.intermediate, f"{mlp}.up_proj": g.intermediate}
        return _Layer(
            name=name,
            window=window,
            input_norm=self._parameter(f"{name}.input_layernorm.weight", g.hidden),
            qkv=self._fused(qkv, g.hidden, bias=g.qkv_bias),
            q_norm=self._parameter(f"{attention}.q_norm.weight", g.head_dim) if g.qk_norm else None,
            k_norm=self._parameter(f"{attention}.k_norm.weight", g.head_dim) if g.qk_norm else None,
            o=self._fused({f"{attention}.o_proj": g.hidden}, queries, bias=g.o_bias).parts[0],
            mlp_norm=self._parameter(f"{name}.post_attention_layernorm.weight", g.hidden),
            gate_up=self._fused(gate_up, g.hidden, bias=g.mlp_bias),
            down=self._fused({f"{mlp}.down_proj": g.hidden}, g.intermediate, bias=g.mlp_bias).parts[0],
        )

    def _parameter(self, name: str, *shape: int) -> Array:
        self.parameters[name] = array = np.empty(shape, np.float32)
        return array

    def _fused(self, rows: dict[str, int], columns: int, *, bias: bool) -> Fused:
        fused = Fused(rows, columns, bias=bias)
        for linear in fused.parts:
            self._own(linear)
            self.parameters[f"{linear.name}.weight"] = linear.weight
            if linear.bias is not None:
                self.parameters[f"{linear.name}.bias"] = linear.bias
        return fused

    def _own(self, linear: Linear) -> Linear:
        self.linears[linear.name] = linear
        return linear


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """One decoder layer. ``window`` is how many positions its attention looks back, its own included."""

    name: str
    window: int | None
    input_norm: Array
    qkv: Fused
    q_norm: Array | None
    k_norm: Array | None
    o: Linear
    mlp_norm: Array
    gate_up: Fused
    down: Linear


def _silu_product(gate: Array, up: Array) -> Array:
    """silu(gate) * up, in bands of rows that stay in the second-level cache."""
    product = np.empty(gate.shape, np.float32)
    for start in range(0, len(gate), _BAND):
        rows = slice(start, start + _BAND)
        band = np.negative(gate[rows], out=product[rows])
        np.exp(band, out=band)
        band += np.float32(1)
        np.divide(gate[rows], band, out=band)
        band *= up[rows]
    return product


FAMILY = Llama
