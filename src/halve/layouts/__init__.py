"""Layouts: one file each, found by looking into this folder."""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from halve.checkpoint.base import Checkpoint
from halve.errors import CheckpointError, UnknownNameError
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


def detect(checkpoint: Checkpoint) -> Layout:
    """The layout of a checkpoint. Raises CheckpointError for one that halve does not read."""
    for layout in sorted(
        layouts().values(), key=lambda layout: layout.name == "dense"
    ):  # which is what nothing else is
        if layout.detect(checkpoint):
            return layout
    found = checkpoint.quantization
    method = (found.get("quant_method") or found.get("quant_algo")) if isinstance(found, dict) else found
    raise CheckpointError(
        f"quantization method {method!r} is not one that halve reads", hint=f"known: {', '.join(layouts())}"
    )
