"""Llama and SmolLM2, and Mistral, which looks through a window."""

from dataclasses import replace

from halve.models.decoder import Decoder
from halve.models.families import base
from halve.models.families.base import Config, Family
from halve.models.geometry import Geometry


def _geometry(config: Config, name: str, source: str) -> Geometry:
    return replace(base.sizes(config, name, source), mlp_bias=bool(config.get("mlp_bias", False)))


def _llama(config: Config, geometry: Geometry) -> Decoder:
    return base.arithmetic(config, geometry, context=2048)


def _mistral(config: Config, geometry: Geometry) -> Decoder:
    window = base.window(config, base.WINDOW)
    sliding = base.layer_types(config, geometry.layers, lambda _: True)
    windows = [window if slides else None for slides in sliding]
    return base.arithmetic(config, geometry, context=131072, windows=windows)


FAMILIES = (
    Family(model_types=("llama",), geometry=_geometry, decoder=_llama),
    Family(model_types=("mistral",), geometry=_geometry, decoder=_mistral),
)
