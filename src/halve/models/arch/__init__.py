"""Architectures: one file a family, found by looking into this folder.

`of` is what callers use; `halve.models.arch.base` explains how a family is written down.
"""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from halve.models.arch.architecture import Architecture
from halve.models.arch.base import Family, Wrapper
from halve.models.arch.edge import Edge
from halve.models.arch.stack import Stack

__all__ = ["Architecture", "Edge", "Family", "Stack", "Wrapper", "families", "of"]

_NO_FAMILY = ("architecture", "base", "edge", "stack")
_TEXT = ("text_config", "llm_config", "language_config")  # where configs of wrappers keep that of the language model


@cache
def families() -> tuple[Family | Wrapper, ...]:
    """All that the files of this folder state, by file name."""
    modules = (import_module(f"{__name__}.{m.name}") for m in iter_modules(__path__) if m.name not in _NO_FAMILY)
    return tuple(family for module in modules for family in module.FAMILIES)


@cache
def _by_type() -> Mapping[str, Family | Wrapper]:
    return {name: family for family in families() for name in (*family.model_types, *family.guessed)}


def of(config: Mapping[str, Any]) -> Architecture:
    """The architecture that a config.json names; what is not known goes by names and shapes, and says so."""
    model_type = config.get("model_type")
    name = model_type if isinstance(model_type, str) else ""
    family = _by_type().get(name)
    text = next((config[key] for key in _TEXT if isinstance(config.get(key), dict)), None)
    if isinstance(family, Wrapper):
        inner = dict(config if text is None else text)
        if text is None or "model_type" not in inner:
            inner["model_type"] = family.language
        language = of(inner)
        checked = language.checked and name in family.model_types
        name = name if language.family else language.model_type
        return Architecture(name, language.family, family.towers, language.config, checked)
    checked = family is not None and name in family.model_types
    return Architecture(name, family, (), config if family or text is None else text, checked)
