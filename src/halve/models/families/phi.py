"""Phi-3 and Phi-4: q, k and v, and gate and up, are one weight each; heads may be rotated in part."""

from dataclasses import replace

from halve.models import rotary
from halve.models.decoder import Decoder
from halve.models.families import base
from halve.models.families.base import Config, Family
from halve.models.geometry import Geometry

_CONTEXT = 4096
_RENAMED = {"su": "longrope", "yarn": "longrope"}  # what early configs call it


def _geometry(config: Config, name: str, source: str) -> Geometry:
    # attention_bias is a word that its class does not know
    return replace(base.sizes(config, name, source), qkv_bias=False, o_bias=False, fused=True)


def _decoder(config: Config, geometry: Geometry) -> Decoder:
    rotation = rotary.read(
        {"original_max_position_embeddings": _CONTEXT, **config},
        geometry.head_dim,
        theta=base.THETA,
        context=_CONTEXT,
        partial=True,
        renamed=_RENAMED,
    )
    windows = [base.window(config, None)] * geometry.layers
    return base.arithmetic(config, geometry, context=_CONTEXT, eps=1e-5, rotation=rotation, windows=windows)


FAMILIES = (Family(model_types=("phi3",), geometry=_geometry, decoder=_decoder),)
