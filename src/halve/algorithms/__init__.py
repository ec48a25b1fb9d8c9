"""Algorithms: one file each, found by looking into this folder."""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from halve.algorithms.base import Algorithm
from halve.errors import UnknownNameError


@cache
def algorithms() -> dict[str, Algorithm]:
    """All algorithms by name."""
    modules = (import_module(f"{__name__}.{m.name}") for m in iter_modules(__path__))
    found = [module.ALGORITHM for module in modules if hasattr(module, "ALGORITHM")]
    return {algorithm.name: algorithm for algorithm in sorted(found, key=lambda algorithm: algorithm.name)}


def get(name: str) -> Algorithm:
    """Return the algorithm called ``name``. Raises UnknownNameError, which lists near matches."""
    try:
        return algorithms()[name]
    except KeyError:
        raise UnknownNameError("algorithm", name, list(algorithms())) from None
