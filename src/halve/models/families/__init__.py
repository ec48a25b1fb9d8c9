"""Decoder families that halve computes: one file each, found by looking into this folder.

A file states `FAMILIES`: how a config.json becomes a `Geometry` and a `Decoder`. `halve.models.families.base` has what
they share. Models of other kinds are quantized by names and shapes, which `halve.models.arch` knows.
"""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from halve import document
from halve.errors import CheckpointError, UnsupportedError
from halve.models import setting
from halve.models.decoder import Decoder
from halve.models.families.base import Family
from halve.models.geometry import Geometry


@cache
def families() -> Mapping[str, Family]:
    """The family of each ``model_type`` of config.json, in alphabetical order."""
    modules = (import_module(f"{__name__}.{m.name}") for m in iter_modules(__path__) if m.name != "base")
    found: dict[str, Family] = {
        model_type: family for module in modules for family in module.FAMILIES for model_type in family.model_types
    }
    return dict(sorted(found.items()))


def geometry(config: Mapping[str, Any], *, name: str, source: str = "") -> Geometry:
    """The geometry that a config.json describes; ``name`` is what errors call it.

    Raises UnsupportedError for a model type that is not covered, CheckpointError for sizes that are missing or
    impossible.
    """
    return _family(config, name).geometry(config, name, source)


def decoder(config: Mapping[str, Any], *, name: str) -> Decoder:
    """The decoder that a config.json describes; ``name`` is what errors call it.

    Raises UnsupportedError for a model type, activation or rope scaling that is not known, CheckpointError for numbers
    that make no sense.
    """
    family = _family(config, name)
    found = family.geometry(config, name, "")
    if found.layers > setting.MAX_LAYERS:  # a decoder has something for every layer
        raise setting.wrong("num_hidden_layers", found.layers, f"a size up to {setting.MAX_LAYERS}")
    if found.heads % found.kv_heads or found.head_dim % 2:
        raise CheckpointError(
            f"{name}: {found.heads} query heads, {found.kv_heads} key heads of {found.head_dim} are no "
            "attention geometry",
            hint="take config.json from the original model",
        )
    return family.decoder(config, found)


def read_geometry(path: Path) -> Geometry:
    """The geometry of a config.json, or of the checkpoint folder that holds one.

    Raises what `read_config` and `geometry` raise.
    """
    file = path / "config.json" if path.is_dir() else path
    return geometry(read_config(file), name=file.resolve().parent.name, source=str(file))


def read_config(file: Path) -> dict[str, Any]:
    """The content of a config.json. Raises CheckpointError where it cannot be read or is no JSON object."""
    try:
        raw = document.read(file, document.CONFIG_LIMIT)
    except OSError as error:
        raise CheckpointError(
            f"{file}: {error.strerror}", hint="give a config.json or a folder that holds one"
        ) from None
    return document.json_object(raw, file, hint="give a model's config.json")


def _family(config: Mapping[str, Any], name: str) -> Family:
    known, model_type = families(), config.get("model_type")
    if not isinstance(model_type, str) or model_type not in known:
        raise UnsupportedError(
            f"{name}: model type {model_type!r} has no geometry yet",
            hint=f"covered: {', '.join(known)}; `halve inspect` lists the tensors of any checkpoint",
        )
    return known[model_type]
