"""Decoder families: one file each, found by looking into this folder."""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from halve.runtime.model import Model


@cache
def families() -> dict[str, type[Model]]:
    """The class that runs each ``model_type`` of config.json."""
    modules = (import_module(f"{__name__}.{m.name}") for m in iter_modules(__path__))
    classes: list[type[Model]] = [module.FAMILY for module in modules]
    return {model_type: family for family in classes for model_type in family.model_types}
