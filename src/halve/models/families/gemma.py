"""Gemma 2 and the text model of Gemma 3: scaled embeddings, norms on both sides of every branch, tied heads.

Most layers look through a window. In Gemma 3 those rotate by a base of their own and the norms of q and k stand where
Gemma 2 caps its scores.
"""

from collections.abc import Mapping
from dataclasses import replace

from halve.errors import UnsupportedError
from halve.models import rotary, setting
from halve.models.decoder import Decoder
from halve.models.families import base
from halve.models.families.base import Config, Family
from halve.models.geometry import Geometry

_GLOBAL_THETA = 1_000_000.0
_KINDS = ("full_attention", "sliding_attention")


def _gemma2(config: Config, name: str, source: str) -> Geometry:
    found = base.sizes(config, name, source, head_dim=256, kv_heads=4, tied=True)
    return replace(found, output_norms=True)


def _gemma3(config: Config, name: str, source: str) -> Geometry:
    return replace(_gemma2(config, name, source), qk_norm=True)


def _decoder2(config: Config, geometry: Geometry) -> Decoder:
    rotation = rotary.read(config, geometry.head_dim, theta=base.THETA, context=8192)
    return replace(
        _decoder(config, geometry, context=8192, every=2, rotation=rotation),
        attention_cap=base.cap(config, "attn_logit_softcapping", 50.0),
        logit_cap=base.cap(config, "final_logit_softcapping", 30.0),
    )


def _decoder3(config: Config, geometry: Geometry) -> Decoder:
    # transformers reads it and applies it nowhere; no published model has it
    if config.get("attn_logit_softcapping") is not None:
        raise UnsupportedError(
            f"{geometry.name}: halve cannot compute attn_logit_softcapping in Gemma 3 (it quantizes such models)",
            hint="engines do not agree on it either: published models have null",
        )
    every = setting.size(config, "sliding_window_pattern", 6)
    full, local = _rotations(config, geometry.head_dim)
    plain = _decoder(config, geometry, context=131072, every=every, rotation=full)
    return replace(
        plain,
        rotaries=(full, local),
        rotary_of=tuple(map(int, base.layer_types(config, geometry.layers, lambda i: _slides(i, every)))),
        logit_cap=base.cap(config, "final_logit_softcapping", None),
    )


def _decoder(config: Config, geometry: Geometry, *, context: int, every: int, rotation: rotary.Rotary) -> Decoder:
    if config.get("use_bidirectional_attention"):
        raise UnsupportedError(
            f"{geometry.name}: halve cannot compute use_bidirectional_attention (it quantizes such models)",
            hint="models that write text run",
        )
    window = base.window(config, base.WINDOW)
    sliding = base.layer_types(config, geometry.layers, lambda index: _slides(index, every))
    windows = [window if slides else None for slides in sliding]
    plain = base.arithmetic(
        config, geometry, context=context, activation="gelu_pytorch_tanh", rotation=rotation, windows=windows
    )
    return replace(
        plain,
        norm_offset=1.0,
        embedding_scale=geometry.hidden**0.5,
        attention_scale=setting.positive(config, "query_pre_attn_scalar", 256) ** -0.5,
    )


def _slides(index: int, every: int) -> bool:
    """All but every ``every``-th layer."""
    return (index + 1) % every != 0


def _rotations(config: Config, head_dim: int) -> tuple[rotary.Rotary, rotary.Rotary]:
    """Of layers that see everything, and of those with a window: the scaling is the former's."""
    found = config.get("rope_parameters") or {}
    if isinstance(found, Mapping) and not found.keys().isdisjoint(_KINDS):
        full, local = ({} if found.get(kind) is None else found[kind] for kind in _KINDS)
    else:
        full, local = config.get("rope_scaling") or {}, {}
    theta = setting.positive(config, "rope_theta", _GLOBAL_THETA)
    local_theta = setting.positive(config, "rope_local_base_freq", base.THETA)
    unscaled = {key: value for key, value in config.items() if key != "rope_theta"}
    return (
        rotary.read(unscaled, head_dim, theta=theta, found=full, context=131072),
        rotary.read(unscaled, head_dim, theta=local_theta, found=local, context=131072),
    )


FAMILIES = (
    Family(model_types=("gemma2",), geometry=_gemma2, decoder=_decoder2),
    Family(model_types=("gemma3_text",), geometry=_gemma3, decoder=_decoder3),
)
