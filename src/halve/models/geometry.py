"""The shape of a decoder language model: every tensor it has, from a few numbers, without a checkpoint.

Names are those of Hugging Face transformers. `halve.models.families` reads the numbers from a config.json.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

Kind = Literal["linear", "embedding", "head", "router", "norm", "bias", "sinks"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One tensor of a model."""

    name: str
    shape: tuple[int, ...]
    kind: Kind

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """The experts of a layer: ``count`` networks of ``intermediate``, of which a router chooses some for each token.

    Every ``step``-th layer has them, except those in ``dense``. ``router`` is the module that chooses. ``biased`` means
    that the router and the experts have biases, those of all experts in one tensor. ``fused``: gate and up are one
    weight, ``gate_up_proj``, whose rows are theirs in turns, gate first (gpt-oss).
    """

    count: int
    intermediate: int
    router: str = "gate"
    biased: bool = False
    fused: bool = False
    step: int = 1
    dense: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Sizes of a decoder, and which tensors it has.

    ``tied`` means that the output head is the embedding. ``qkv_bias``, ``o_bias``, ``mlp_bias`` say which linear layers
    have a bias; ``qk_norm`` adds a norm on the heads of queries and keys (Qwen3), ``output_norms`` one on what
    attention and MLP put out (Gemma 2), ``sinks`` a score a head that attention may be spent on (gpt-oss). ``fused``:
    q, k and v are one weight, ``qkv_proj``, and gate and up are ``gate_up_proj``, one after another (Phi-3).
    """

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    output_norms: bool = False
    sinks: bool = False
    fused: bool = False
    experts: Experts | None = None
    source: str = ""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """All tensors, in the order of the model."""
        return tuple(self.each_parameter())

    @property
    def count(self) -> int:
        """How many numbers the model has; a tied head counts once."""
        return sum(parameter.count for parameter in self.each_parameter())

    def experts_of(self, layer: int) -> Experts | None:
        """The experts of layer ``layer``; None where it has an MLP."""
        experts = self.experts
        sparse = experts is not None and (layer + 1) % experts.step == 0 and layer not in experts.dense
        return experts if sparse else None

    def each_parameter(self) -> Iterator[Parameter]:
        """All tensors one by one: a config.json may promise more of them than there is memory for their names."""
        yield Parameter("model.embed_tokens.weight", (self.vocab, self.hidden), "embedding")
        for index in range(self.layers):
            yield from self.layer_parameters(index)
        yield Parameter("model.norm.weight", (self.hidden,), "norm")
        if not self.tied:
            yield Parameter("lm_head.weight", (self.vocab, self.hidden), "head")

    def layer_parameters(self, index: int) -> Iterator[Parameter]:
        """The tensors of decoder layer ``index``."""
        prefix = f"model.layers.{index}"
        yield Parameter(f"{prefix}.input_layernorm.weight", (self.hidden,), "norm")
        yield from self._attention(f"{prefix}.self_attn")
        yield Parameter(f"{prefix}.post_attention_layernorm.weight", (self.hidden,), "norm")
        if self.output_norms:
            yield Parameter(f"{prefix}.pre_feedforward_layernorm.weight", (self.hidden,), "norm")
            yield Parameter(f"{prefix}.post_feedforward_layernorm.weight", (self.hidden,), "norm")
        experts = self.experts_of(index)
        yield from self._mlp(f"{prefix}.mlp") if experts is None else self._experts(f"{prefix}.mlp", experts)

    def _attention(self, prefix: str) -> Iterator[Parameter]:
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        rows = {"qkv_proj": queries + 2 * keys} if self.fused else {"q_proj": queries, "k_proj": keys, "v_proj": keys}
        for name, size in rows.items():
            yield from _linear(f"{prefix}.{name}", size, self.hidden, bias=self.qkv_bias)
        yield from _linear(f"{prefix}.o_proj", self.hidden, queries, bias=self.o_bias)
        if self.qk_norm:
            yield Parameter(f"{prefix}.q_norm.weight", (self.head_dim,), "norm")
            yield Parameter(f"{prefix}.k_norm.weight", (self.head_dim,), "norm")
        if self.sinks:
            yield Parameter(f"{prefix}.sinks", (self.heads,), "sinks")

    def _mlp(self, prefix: str) -> Iterator[Parameter]:
        inner = self.intermediate
        rows = {"gate_up_proj": 2 * inner} if self.fused else {"gate_proj": inner, "up_proj": inner}
        for name, size in rows.items():
            yield from _linear(f"{prefix}.{name}", size, self.hidden, bias=self.mlp_bias)
        yield from _linear(f"{prefix}.down_proj", self.hidden, inner, bias=self.mlp_bias)

    def _experts(self, prefix: str, experts: Experts) -> Iterator[Parameter]:
        inner = experts.intermediate
        rows = {"gate_up_proj": 2 * inner} if experts.fused else {"gate_proj": inner, "up_proj": inner}
        yield Parameter(f"{prefix}.{experts.router}.weight", (experts.count, self.hidden), "router")
        if experts.biased:
            yield Parameter(f"{prefix}.{experts.router}.bias", (experts.count,), "bias")
            for name, size in {**rows, "down_proj": self.hidden}.items():
                yield Parameter(f"{prefix}.experts.{name}_bias", (experts.count, size), "bias")
        for expert in range(experts.count):
            for name, size in rows.items():
                yield from _linear(f"{prefix}.experts.{expert}.{name}", size, self.hidden, bias=False)
            yield from _linear(f"{prefix}.experts.{expert}.down_proj", self.hidden, inner, bias=False)


def _linear(module: str, rows: int, columns: int, *, bias: bool) -> Iterator[Parameter]:
    yield Parameter(f"{module}.weight", (rows, columns), "linear")
    if bias:
        yield Parameter(f"{module}.bias", (rows,), "bias")
