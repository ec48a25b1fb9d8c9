"""gpt-oss: experts with biases, a sink in every head's attention, a window in every other layer, YaRN."""

from dataclasses import replace

from halve.models import rotary, setting
from halve.models.decoder import Decoder
from halve.models.families import base
from halve.models.families.base import Config, Family
from halve.models.geometry import Experts, Geometry

_CONTEXT = 131072
_THETA = 150000.0
_LIMIT = 7.0
_YARN = {  # where config.json says nothing of the rotation
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def _geometry(config: Config, name: str, source: str) -> Geometry:
    sizes = base.sizes({"attention_bias": True, **config}, name, source, head_dim=64, kv_heads=8)
    count = base.size(config, "num_local_experts", name, default=config.get("num_experts", 128))
    experts = Experts(count=count, intermediate=sizes.intermediate, router="router", biased=True, fused=True)
    return replace(sizes, sinks=True, experts=experts)


def _decoder(config: Config, geometry: Geometry) -> Decoder:
    found = config.get("rope_parameters") or config.get("rope_scaling") or _YARN
    rotation = rotary.read(config, geometry.head_dim, theta=_THETA, found=found, context=_CONTEXT)
    window = base.window(config, 128)
    sliding = base.layer_types(config, geometry.layers, lambda index: index % 2 == 0)
    windows = [window if slides else None for slides in sliding]
    count = geometry.experts.count if geometry.experts else 0
    return replace(
        base.arithmetic(config, geometry, context=_CONTEXT, eps=1e-5, rotation=rotation, windows=windows),
        activation="swigluoai",
        activation_limit=setting.positive(config, "swiglu_limit", _LIMIT),
        experts_per_token=base.chosen(config, "num_experts_per_tok", count, geometry.name, 4),
    )


FAMILIES = (Family(model_types=("gpt_oss",), geometry=_geometry, decoder=_decoder),)
