"""Qwen2, with biases of q, k and v; Qwen3, with norms on the heads of q and k; Qwen3-MoE, with experts."""

from dataclasses import replace
from typing import Any

from halve.errors import CheckpointError
from halve.models import setting
from halve.models.decoder import Decoder
from halve.models.families import base
from halve.models.families.base import Config, Family
from halve.models.geometry import Experts, Geometry

_CONTEXT = 32768
_MAX_WINDOW_LAYERS = 28


def _qwen2(config: Config, name: str, source: str) -> Geometry:
    return replace(base.sizes(config, name, source), qkv_bias=True)


def _qwen3(config: Config, name: str, source: str) -> Geometry:
    return replace(base.sizes(config, name, source, head_dim=128), qk_norm=True)


def _qwen3_moe(config: Config, name: str, source: str) -> Geometry:
    count = base.size(config, "num_experts", name, default=config.get("num_local_experts", 128))
    experts = Experts(
        count=count,
        intermediate=base.size(config, "moe_intermediate_size", name, default=768),
        step=base.size(config, "decoder_sparse_step", name, default=1),
        dense=_layers(config.get("mlp_only_layers") or [], name),
    )
    return replace(base.sizes(config, name, source), qk_norm=True, experts=experts)


def _layers(found: Any, name: str) -> frozenset[int]:
    if not isinstance(found, list) or not all(isinstance(index, int) for index in found):
        raise CheckpointError(
            f"{name}: config.json says mlp_only_layers = {found!r}, which is no list of layers",
            hint="take config.json from the original model",
        )
    return frozenset(found)


def _dense(config: Config, geometry: Geometry) -> Decoder:
    window = base.window(config, base.WINDOW) if config.get("use_sliding_window") else None
    first = setting.size(config, "max_window_layers", _MAX_WINDOW_LAYERS) if window else 0
    sliding = base.layer_types(config, geometry.layers, lambda index: index >= first)
    windows = [window if slides else None for slides in sliding]
    return base.arithmetic(config, geometry, context=_CONTEXT, windows=windows)


def _sparse(config: Config, geometry: Geometry) -> Decoder:
    window = base.window(config, base.WINDOW) if config.get("use_sliding_window") else None
    count = geometry.experts.count if geometry.experts else 0
    return replace(
        base.arithmetic(config, geometry, context=_CONTEXT, windows=[window] * geometry.layers),
        experts_per_token=base.chosen(config, "num_experts_per_tok", count, geometry.name, 8),
        experts_normalized=bool(config.get("norm_topk_prob", False)),
    )


FAMILIES = (
    Family(model_types=("qwen2",), geometry=_qwen2, decoder=_dense),
    Family(model_types=("qwen3",), geometry=_qwen3, decoder=_dense),
    Family(model_types=("qwen3_moe",), geometry=_qwen3_moe, decoder=_sparse),
)
