"""Layouts: one file each, found by looking into this folder."""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from halve.errors import UnknownNameError
from halve.layouts.base import Layout


@cache
def layouts() -> dict[str, Layout]:
    """All layouts by name."""
    modules = (import_module(f"{__name__}.{m.name}") for m in iter_modules(__path__) if m.name != "base")
    found = [module.LAYOUT for module in modules]
    return {layout.name: layout for layout in sorted(found, key=lambda layout: layout.name)}


def get(name: str) -> Layout:
    """Return the layout called ``name``. Raises UnknownNameError, which lists near matches."""
    try:
        return layouts()[name]
    except KeyError:
        raise UnknownNameError("layout", name, list(layouts())) from None
