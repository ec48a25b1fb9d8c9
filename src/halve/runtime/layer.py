"""A decoder layer's arrays and linear layers, made to the shapes of a geometry, still to be filled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from halve.models.decoder import Decoder
from halve.models.geometry import Geometry
from halve.runtime.linear import Array, Fused, Linear, Split
from halve.runtime.mlp import Experts, Mlp


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One decoder layer.

    ``window`` is how many positions its attention looks back, its own included, ``rotary`` which of the decoder's
    rotations it uses. ``attention_norm`` and ``output_norm`` stand behind attention and MLP, where there are any.
    """

    name: str
    window: int | None
    rotary: int
    input_norm: Array
    qkv: Fused | Split
    q_norm: Array | None
    k_norm: Array | None
    sinks: Array | None
    o: Linear
    attention_norm: Array | None
    mlp_norm: Array
    mlp: Mlp | Experts
    output_norm: Array | None


class Parts:
    """Makes layers, and remembers their arrays by tensor name and their linear layers in the order of running."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._shapes: Mapping[str, tuple[int, ...]] = {}
        self.parameters: dict[str, Array] = {}
        self.linears: dict[str, Linear] = {}

    def layer(self, index: int) -> Layer:
        """Decoder layer ``index``."""
        decoder, geometry = self._decoder, self._decoder.geometry
        self._shapes = {parameter.name: parameter.shape for parameter in geometry.layer_parameters(index)}
        name = f"model.layers.{index}"
        attention, outer = f"{name}.self_attn", geometry.output_norms
        return Layer(
            name=name,
            window=decoder.windows[index],
            rotary=decoder.rotary_of[index],
            input_norm=self._array(f"{name}.input_layernorm.weight"),
            qkv=self._qkv(attention),
            q_norm=self._array(f"{attention}.q_norm.weight") if geometry.qk_norm else None,
            k_norm=self._array(f"{attention}.k_norm.weight") if geometry.qk_norm else None,
            sinks=self._array(f"{attention}.sinks") if geometry.sinks else None,
            o=self._linear(f"{attention}.o_proj"),
            attention_norm=self._array(f"{name}.post_attention_layernorm.weight") if outer else None,
            mlp_norm=self._array(f"{name}.{'pre_feedforward' if outer else 'post_attention'}_layernorm.weight"),
            mlp=self._mlp(f"{name}.mlp") if geometry.experts_of(index) is None else self._experts(f"{name}.mlp"),
            output_norm=self._array(f"{name}.post_feedforward_layernorm.weight") if outer else None,
        )

    def array(self, name: str, shape: tuple[int, ...]) -> Array:
        """A tensor outside of the layers."""
        self.parameters[name] = array = np.empty(shape, np.float32)
        return array

    def own(self, linear: Linear) -> Linear:
        """Remember ``linear`` as the next to run."""
        self.linears[linear.name] = linear
        return linear

    def _array(self, name: str) -> Array:
        return self.array(name, self._shapes[name])

    def _qkv(self, attention: str) -> Fused | Split:
        geometry = self._decoder.geometry
        if geometry.fused:
            return Split(self._linear(f"{attention}.qkv_proj"), _after_another(_heads(geometry)))
        return self._fused(*(f"{attention}.{part}_proj" for part in "qkv"))

    def _mlp(self, mlp: str) -> Mlp:
        if self._decoder.geometry.fused:
            rows = self._shapes[f"{mlp}.gate_up_proj.weight"][0]
            gate_up: Fused | Split = Split(self._linear(f"{mlp}.gate_up_proj"), _after_another((rows // 2, rows // 2)))
        else:
            gate_up = self._fused(f"{mlp}.gate_proj", f"{mlp}.up_proj")
        return Mlp(self._decoder, gate_up, self._linear(f"{mlp}.down_proj"))

    def _experts(self, mlp: str) -> Experts:
        experts = self._decoder.geometry.experts
        assert experts is not None  # noqa: S101 - the geometry says that this layer has some
        router = self._linear(f"{mlp}.{experts.router}")
        names = ("gate_up_proj", "down_proj") if experts.fused else ("gate_proj", "up_proj", "down_proj")
        biases = {name: self._array(f"{mlp}.experts.{name}_bias") for name in names} if experts.biased else {}
        found = []
        for index in range(experts.count):
            expert = f"{mlp}.experts.{index}"
            if experts.fused:
                turns = (slice(0, None, 2), slice(1, None, 2))
                gate_up: Fused | Split = Split(self._linear(f"{expert}.gate_up_proj"), turns)
            else:
                gate_up = self._fused(f"{expert}.gate_proj", f"{expert}.up_proj")
            found.append(Mlp(self._decoder, gate_up, self._linear(f"{expert}.down_proj")))
            for name, bias in biases.items():
                self.linears[f"{expert}.{name}"].bias = bias[index]
        return Experts(self._decoder, router, found)

    def _linear(self, name: str) -> Linear:
        return self._fused(name).parts[0]

    def _fused(self, *names: str) -> Fused:
        rows = {name: self._shapes[f"{name}.weight"][0] for name in names}
        columns = self._shapes[f"{names[0]}.weight"][1]
        fused = Fused(rows, columns, bias=f"{names[0]}.bias" in self._shapes)
        for linear in fused.parts:
            self.own(linear)
            self.parameters[f"{linear.name}.weight"] = linear.weight
            if linear.bias is not None:
                self.parameters[f"{linear.name}.bias"] = linear.bias
        return fused


def _heads(geometry: Geometry) -> tuple[int, int, int]:
    """Outputs of q, of k and of v."""
    keys = geometry.kv_heads * geometry.head_dim
    return geometry.heads * geometry.head_dim, keys, keys


def _after_another(sizes: Sequence[int]) -> list[slice]:
    ends = np.cumsum([0, *sizes]).tolist()
    return [slice(start, stop) for start, stop in pairwise(ends)]
