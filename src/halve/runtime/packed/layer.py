"""The layers of a packed model as native code takes them."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from halve.models.decoder import Decoder
from halve.models.geometry import Experts
from halve.runtime.packed import kernels
from halve.runtime.packed.weight import Weight

if TYPE_CHECKING:
    from halve._native import DecoderLayer, PackedWeight

Array = NDArray[np.float32]


def norm(decoder: Decoder, weight: Array) -> Array:
    """A norm's weight with what is added to it."""
    return weight + np.float32(decoder.norm_offset) if decoder.norm_offset else weight


class Parts:
    """What decoder layer ``index`` is made of."""

    def __init__(
        self, decoder: Decoder, index: int, weights: Mapping[str, Weight], vectors: Mapping[str, Array]
    ) -> None:
        self._decoder, self._geometry, self._index = decoder, decoder.geometry, index
        self._weights, self._vectors = weights, vectors
        self._name = f"model.layers.{index}"

    def layer(self, kv_scales: tuple[float, float]) -> "DecoderLayer":
        """The layer as native code takes it, with the scales of its keys and values."""
        geometry, outer = self._geometry, self._geometry.output_norms
        experts = geometry.experts_of(self._index)
        attention = [*self._qkv(), ("self_attn.o_proj", 0, geometry.hidden)]
        mlp = self._mlp() if experts is None else [(f"mlp.{experts.router}", 0, experts.count)]
        linears = [*attention, *mlp]
        of_experts = [] if experts is None else list(self._experts(experts))
        norms = "pre_feedforward" if outer else "post_attention"
        return kernels.native.DecoderLayer(
            input_norm=self._norm("input_layernorm"),
            mlp_norm=self._norm(f"{norms}_layernorm"),
            q_norm=self._norm("self_attn.q_norm") if geometry.qk_norm else None,
            k_norm=self._norm("self_attn.k_norm") if geometry.qk_norm else None,
            attention_norm=self._norm("post_attention_layernorm") if outer else None,
            output_norm=self._norm("post_feedforward_layernorm") if outer else None,
            sinks=self._vectors[f"{self._name}.self_attn.sinks"] if geometry.sinks else None,
            linears=[self._weights[f"{self._name}.{module}.weight"].native(*rows) for module, *rows in linears],
            biases=[self._bias(*linear) for linear in linears],
            experts=[weight for weight, _ in of_experts],
            expert_biases=[bias for _, bias in of_experts],
            rotation=self._decoder.rotary_of[self._index],
            window=self._decoder.windows[self._index] or 0,
            key_scale=kv_scales[0],
            value_scale=kv_scales[1],
        )

    def _norm(self, module: str) -> Array:
        return norm(self._decoder, self._vectors[f"{self._name}.{module}.weight"])

    def _bias(self, module: str, start: int, stop: int) -> Array | None:
        bias = self._vectors.get(f"{self._name}.{module}.bias")
        return None if bias is None else bias[start:stop]

    def _qkv(self) -> Iterator[tuple[str, int, int]]:
        """Module and rows of q, k and v."""
        geometry, start = self._geometry, 0
        for part, heads in zip("qkv", (geometry.heads, geometry.kv_heads, geometry.kv_heads), strict=True):
            rows = heads * geometry.head_dim
            yield ("self_attn.qkv_proj", start, start + rows) if geometry.fused else (f"self_attn.{part}_proj", 0, rows)
            start += rows

    def _mlp(self) -> Iterator[tuple[str, int, int]]:
        """Module and rows of gate, up and down."""
        geometry, rows = self._geometry, self._geometry.intermediate
        for number, part in enumerate(("gate", "up")):
            start = number * rows
            yield ("mlp.gate_up_proj", start, start + rows) if geometry.fused else (f"mlp.{part}_proj", 0, rows)
        yield "mlp.down_proj", 0, geometry.hidden

    def _experts(self, experts: Experts) -> Iterator[tuple["PackedWeight", Array | None]]:
        """Weights and biases of all experts, those of each one after another."""
        module = f"{self._name}.mlp.experts"
        projections = ("gate_up_proj", "down_proj") if experts.fused else ("gate_proj", "up_proj", "down_proj")
        for expert in range(experts.count):
            for projection in projections:
                biases = self._vectors.get(f"{module}.{projection}_bias")
                weight = self._weights[f"{module}.{expert}.{projection}.weight"]
                yield weight.native(), None if biases is None else biases[expert]
