"""Shapes of published models by name, from ``data/published.yaml``: sizes as their config.json states them."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from halve.errors import UnknownNameError
from halve.models.config_shape import shape_of
from halve.models.shape import Shape


def names() -> list[str]:
    """Every model of the catalogue."""
    return list(_catalog())


def find(name: str) -> Shape:
    """The model called ``name`` (with or without its organisation), in any case. Raises UnknownNameError."""
    key = _key(name)
    known = _by_name()
    if key not in known:
        every = [n for row, entry in _catalog().items() for n in (row, *entry["aliases"])]
        raise UnknownNameError("model", name, every)
    return _shape(known[key])


@cache
def _shape(name: str) -> Shape:
    entry = _catalog()[name]
    return shape_of(entry["config"], name=name, source=entry["source"], published_as=entry.get("published_as", ""))


@cache
def _by_name() -> Mapping[str, str]:
    return {_key(n): row for row, entry in _catalog().items() for n in (row, *entry["aliases"])}


@cache
def _catalog() -> Mapping[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = files("halve.models").joinpath("data/published.yaml").read_text("utf-8")
    found: Mapping[str, Any] = yaml.load(text, loader)  # noqa: S506 - a safe loader, in C where there is one
    return found


def _key(name: str) -> str:
    return name.rpartition("/")[2].lower().replace("_", "-")
