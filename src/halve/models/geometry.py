"""The shape of a decoder language model: every tensor it has, from a few numbers, without a checkpoint.

Covers the Llama family in the names of Hugging Face transformers: Llama, Mistral, Qwen2, Qwen3.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

from halve.errors import CheckpointError, UnsupportedError

Kind = Literal["linear", "embedding", "head", "norm", "bias"]


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
class Geometry:
    """Sizes of a decoder of the Llama family.

    ``tied`` means that the output head is the embedding. ``qkv_bias``, ``o_bias``, ``mlp_bias`` say which linear layers
    have a bias; ``qk_norm`` adds a norm on the heads of queries and keys (Qwen3).
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
    source: str = ""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """All tensors, in the order of the model."""
        return tuple(self._parameters())

    @property
    def count(self) -> int:
        """How many numbers the model has; a tied head counts once."""
        return sum(parameter.count for parameter in self._parameters())

    def _parameters(self) -> Iterator[Parameter]:
        yield Parameter("model.embed_tokens.weight", (self.vocab, self.hidden), "embedding")
        for index in range(self.layers):
            yield from self._layer(f"model.layers.{index}")
        yield Parameter("model.norm.weight", (self.hidden,), "norm")
        if not self.tied:
            yield Parameter("lm_head.weight", (self.vocab, self.hidden), "head")

    def _layer(self, prefix: str) -> Iterator[Parameter]:
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        yield Parameter(f"{prefix}.input_layernorm.weight", (self.hidden,), "norm")
        yield from _linear(f"{attention}.q_proj", queries, self.hidden, bias=self.qkv_bias)
        yield from _linear(f"{attention}.k_proj", keys, self.hidden, bias=self.qkv_bias)
        yield from _linear(f"{attention}.v_proj", keys, self.hidden, bias=self.qkv_bias)
        yield from _linear(f"{attention}.o_proj", self.hidden, queries, bias=self.o_bias)
        if self.qk_norm:
            yield Parameter(f"{attention}.q_norm.weight", (self.head_dim,), "norm")
            yield Parameter(f"{attention}.k_norm.weight", (self.head_dim,), "norm")
        yield Parameter(f"{prefix}.post_attention_layernorm.weight", (self.hidden,), "norm")
        yield from _linear(f"{mlp}.gate_proj", self.intermediate, self.hidden, bias=self.mlp_bias)
        yield from _linear(f"{mlp}.up_proj", self.intermediate, self.hidden, bias=self.mlp_bias)
        yield from _linear(f"{mlp}.down_proj", self.hidden, self.intermediate, bias=self.mlp_bias)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, name: str, source: str = "") -> "Geometry":
        """The geometry that a config.json describes; ``name`` is what errors call it.

        Raises UnsupportedError for a model type that is not covered, CheckpointError for sizes that are missing or
        impossible.
        """
        model_type = config.get("model_type")
        if model_type not in _MODEL_TYPES:
            raise UnsupportedError(
                f"{name}: model type {model_type!r} has no geometry yet",
                hint=f"covered: {', '.join(_MODEL_TYPES)}; `halve inspect` lists the tensors of any checkpoint",
            )
        heads, hidden = _size(config, "num_attention_heads", name), _size(config, "hidden_size", name)
        bias = bool(config.get("attention_bias", False))
        return cls(
            name=name,
            hidden=hidden,
            intermediate=_size(config, "intermediate_size", name),
            layers=_size(config, "num_hidden_layers", name),
            heads=heads,
            kv_heads=_size(config, "num_key_value_heads", name, default=heads),
            head_dim=_size(config, "head_dim", name, default=_HEAD_DIM.get(model_type) or hidden // heads),
            vocab=_size(config, "vocab_size", name),
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=bias or model_type == "qwen2",
            o_bias=bias,
            mlp_bias=bool(config.get("mlp_bias", False)),
            qk_norm=model_type == "qwen3",
            source=source,
        )


_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
_HEAD_DIM = {"qwen3": 128}  # transformers' default where config.json does not say; elsewhere hidden / heads


def read_geometry(path: Path) -> Geometry:
    """The geometry of a config.json, or of the checkpoint folder that holds one.

    Raises CheckpointError where there is none or it is not JSON, and what `Geometry.from_config` raises.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(file.read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"{file}: {error.strerror}", hint="give a config.json or a folder that holds one"
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not JSON: {error}", hint="give a model's config.json") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds no JSON object", hint="give a model's config.json")
    return Geometry.from_config(config, name=file.resolve().parent.name, source=str(file))


def _linear(module: str, rows: int, columns: int, *, bias: bool) -> Iterator[Parameter]:
    yield Parameter(f"{module}.weight", (rows, columns), "linear")
    if bias:
        yield Parameter(f"{module}.bias", (rows,), "bias")


def _size(config: Mapping[str, Any], key: str, name: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(
            f"{name}: config.json says {key} = {value!r}, which is no size",
            hint="a model's config.json gives all sizes",
        )
    return value
