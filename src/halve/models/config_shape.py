"""Reading a `Shape` out of a config.json: what keys of which families mean.

Sources: the configuration and modelling files of Hugging Face transformers 5 for each model type.
"""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from halve.errors import CheckpointError, UnsupportedError
from halve.models import setting
from halve.models.shape import Attention, Layer, Matrix, Mlp, Shape

_TEXT = ("text_config", "llm_config", "language_config")
_LETTERS = {"f": "full_attention", "s": "sliding_attention", "c": "chunked_attention", "l": "linear_attention"}
_KNOWN = (
    "llama",
    "mistral",
    "ministral",
    "qwen2",
    "qwen3",
    "qwen2_moe",
    "qwen3_moe",
    "mixtral",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "kimi_k2",
    "glm_moe_dsa",
    "minimax_m2",
    "gpt_oss",
    "llama4_text",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gemma4_text",
    "qwen3_next",
    "qwen3_5_text",
    "qwen3_5_moe_text",
    "qwen3_vl_text",
    "phi3",
    "chatglm",
    "internlm2",
    "smollm3",
    "glm4",
    "glm4_moe",
)
_TIED = ("gemma", "gemma2", "gemma3_text", "gemma4_text")  # tied where config.json does not say
_TWICE_AS_WIDE = ("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next")  # queries carry a gate of their own size


class _Config:
    """A config.json with its sizes checked."""

    def __init__(self, content: Mapping[str, Any], name: str) -> None:
        inner = next((content[key] for key in _TEXT if isinstance(content.get(key), dict)), None)
        self.content = {**content, **inner} if inner else dict(content)
        self.name = name

    def size(self, *keys: str, default: int | None = None) -> int:
        """The first of ``keys`` that is there. Raises CheckpointError for what is no size."""
        value = next((self.content[key] for key in keys if self.content.get(key) is not None), default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0 or (value == 0 and default != 0):
            raise CheckpointError(
                f"{self.name}: config.json says {keys[0]} = {value!r}, which is no size",
                hint="a model's config.json gives all sizes",
            )
        return value

    def flag(self, key: str, *, default: bool = False) -> bool:
        value = self.content.get(key)
        return default if value is None else bool(value)


def shape_of(config: Mapping[str, Any], *, name: str, source: str = "", published_as: str = "") -> Shape:
    """The shape that a config.json describes; ``name`` is what errors call it.

    Raises UnsupportedError for a model type that is not covered, CheckpointError for sizes that are missing.
    """
    found = _Config(config, name)
    model_type = found.content.get("model_type")
    if model_type not in _KNOWN:
        raise UnsupportedError(
            f"{name}: the planner does not know model type {model_type!r}", hint=f"it knows {', '.join(_KNOWN)}"
        )
    depth = found.size("num_hidden_layers")
    if depth > setting.MAX_LAYERS:
        raise CheckpointError(
            f"{name}: config.json says num_hidden_layers = {depth}, more than any model has",
            hint="take config.json from the original model",
        )
    kinds = _kinds(found, depth)
    layers = [Layer(_attention(found, kinds[index]), _mlp(found, index)) for index in range(depth)]
    alike = sorted(layers, key=repr)
    return Shape(
        name=name,
        hidden=found.size("hidden_size"),
        vocab=found.size("vocab_size"),
        tied=found.flag("tie_word_embeddings", default=model_type in _TIED),
        layers=tuple(Layer(first.attention, first.mlp, len(list(same))) for first, same in groupby(alike)),
        source=source,
        published_as=published_as,
    )


def _kinds(config: _Config, depth: int) -> list[str]:
    """What sort of attention each layer has."""
    content = config.content
    said = content.get("layer_types")
    if isinstance(said, str):
        if unknown := set(said) - _LETTERS.keys():
            raise setting.wrong("layer_types", min(unknown), f"one of the letters {', '.join(_LETTERS)}")
        said = [_LETTERS[letter] for letter in said]
    if isinstance(said, list) and len(said) == depth:
        if not all(isinstance(kind, str) for kind in said):
            raise setting.wrong("layer_types", said[:4], "a list of kinds of attention")
        return said
    if content["model_type"] == "llama4_text":  # every fourth layer is without positions and sees all
        return ["full_attention" if (i + 1) % 4 == 0 else "chunked_attention" for i in range(depth)]
    if "full_attention_interval" in content:
        every = config.size("full_attention_interval")
        return ["full_attention" if (i + 1) % every == 0 else "linear_attention" for i in range(depth)]
    if content["model_type"] == "gemma2":
        return ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(depth)]
    if "sliding_window_pattern" in content:
        every = config.size("sliding_window_pattern")
        return ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(depth)]
    return ["sliding_attention" if content.get("sliding_window") else "full_attention"] * depth


def _attention(config: _Config, kind: str) -> Attention:
    if "kv_lora_rank" in config.content:
        return _latent(config)
    if kind == "linear_attention":
        return _linear(config)
    content = config.content
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    kv_heads = config.size("num_key_value_heads", default=heads)
    head = config.size("head_dim", default=max(1, hidden // heads))
    if kind == "full_attention" and content.get("global_head_dim"):
        head, kv_heads = config.size("global_head_dim"), config.size("num_global_key_value_heads", default=kv_heads)
    shared = kind == "full_attention" and config.flag("attention_k_eq_v")  # Gemma 4: values are the keys
    queries = heads * head * (2 if content["model_type"] in _TWICE_AS_WIDE else 1)
    window = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}.get(kind)
    keys = (kv_heads * head,) if shared else (kv_heads * head, kv_heads * head)
    return Attention(
        kind="window" if window else "full",
        matrices=(
            Matrix("attention", queries, hidden),
            *(Matrix("attention", rows, hidden) for rows in keys),
            Matrix("attention", hidden, heads * head),
        ),
        heads=heads,
        kv_heads=kv_heads,
        cached=2 * kv_heads * head,
        pair_macs=2 * heads * head,
        prefill_macs=2 * heads * head,
        window=config.size(window) if window else None,
    )


def _latent(config: _Config) -> Attention:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, 2.1): decoding works on the latents themselves."""
    hidden, heads, latent = (config.size(k) for k in ("hidden_size", "num_attention_heads", "kv_lora_rank"))
    nope, rope, value = (config.size(k) for k in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    rank = config.size("q_lora_rank", default=0)
    queries = heads * (nope + rope)
    down = (
        (Matrix("attention", rank, hidden), Matrix("attention", queries, rank))
        if rank
        else (Matrix("attention", queries, hidden),)
    )
    matrices = (
        *down,
        Matrix("attention", latent + rope, hidden),
        Matrix("attention", heads * (nope + value), latent),
        Matrix("attention", hidden, heads * value),
    )
    cached, reach = latent + rope, None
    if "index_topk" in config.content:  # DeepSeek-V3.2: an indexer picks the tokens; it keeps a key of its own
        width, count = config.size("index_head_dim"), config.size("index_n_heads")
        matrices += (
            Matrix("router", count * width, rank),
            Matrix("router", width, hidden),
            Matrix("router", count, hidden),
        )
        cached += width
    return Attention(
        kind="latent",
        matrices=matrices,
        heads=heads,
        kv_heads=1,
        cached=cached,
        pair_macs=heads * (2 * latent + rope),
        prefill_macs=heads * (nope + rope + value),
        window=reach,
    )


def _linear(config: _Config) -> Attention:
    """Gated delta net (Qwen3-Next): a state a head instead of a cache."""
    hidden = config.size("hidden_size")
    key_heads, value_heads = config.size("linear_num_key_heads"), config.size("linear_num_value_heads")
    key, value = config.size("linear_key_head_dim"), config.size("linear_value_head_dim")
    keys, values = key_heads * key, value_heads * value
    return Attention(
        kind="linear",
        matrices=(
            Matrix("attention", 2 * keys + 2 * values, hidden),
            Matrix("router", 2 * value_heads, hidden),
            Matrix("attention", hidden, values),
        ),
        heads=0,
        kv_heads=value_heads,
        cached=0,
        pair_macs=0,
        prefill_macs=0,
        state=value_heads * key * value + (2 * keys + values) * config.size("linear_conv_kernel_dim"),
    )


def _mlp(config: _Config, index: int) -> Mlp:
    content, hidden = config.content, config.size("hidden_size")
    experts = config.size("n_routed_experts", "num_experts", "num_local_experts", default=0)
    dense = config.size("intermediate_size_mlp", "intermediate_size", default=0)
    if not experts or _is_dense(config, index):
        return Mlp(matrices=_gated("mlp", hidden, dense))
    width = config.size("moe_intermediate_size", "intermediate_size")
    if content["model_type"] == "llama4_text":
        shared = width  # one shared expert, as wide as the others
    elif config.flag("enable_moe_block"):
        shared = dense  # Gemma 4: the plain MLP stands beside the experts
    else:
        shared = config.size("shared_expert_intermediate_size", default=0)
        shared = shared or width * config.size("n_shared_experts", default=0)
    return Mlp(
        matrices=(
            Matrix("router", experts, hidden),
            *_gated("expert", hidden, width, experts),
            *(_gated("shared", hidden, shared) if shared else ()),
        ),
        experts=experts,
        active=config.size("num_experts_per_tok", "top_k_experts"),
    )


def _is_dense(config: _Config, index: int) -> bool:
    """Whether layer ``index`` of a model with experts has none."""
    if index < config.size("first_k_dense_replace", default=0):
        return True
    step = config.size("interleave_moe_layer_step", "decoder_sparse_step", default=1)
    return (index + 1) % max(step, 1) != 0


def _gated(role: Any, hidden: int, width: int, count: int = 1) -> tuple[Matrix, ...]:
    return Matrix(role, width, hidden, 2 * count), Matrix(role, hidden, width, count)
