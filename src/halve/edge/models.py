"""The layer tables of published models that speeds were measured of: ``data/models.json``, a layer a line.

`benchmarks/edge_layers.py` writes it from packages that define the architectures; no weights are in it.
"""

import json
from collections.abc import Mapping
from dataclasses import astuple, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from halve.edge.layers import Layer

Counted = tuple[tuple[int, Layer], ...]
_FIELDS = tuple(field.name for field in fields(Layer) if field.name not in ("name", "dtype"))


@cache
def published() -> Mapping[str, Counted]:
    """Model -> its layers, those of one kind counted."""
    text = (files("halve.edge") / "data" / "models.json").read_text()
    return {name: table for name, (_, table) in _parse(text).items()}


def load(path: Path) -> dict[str, tuple[str, Counted]]:
    """Model -> where its architecture is published, and its layers."""
    return _parse(path.read_text())


def dump(models: Mapping[str, tuple[str, Counted]]) -> str:
    """The text of the file."""
    texts = []
    for name, (source, table) in sorted(models.items()):
        lines = ",\n".join(json.dumps([count, *_cells(layer)], separators=(",", ":")) for count, layer in table)
        texts.append(f'{json.dumps(name)}: {{"source": {json.dumps(source)}, "layers": [\n{lines}]}}')
    return f'{{"columns": {json.dumps(["count", *_FIELDS])},\n"models": {{\n' + ",\n".join(texts) + "}}\n"


def _cells(layer: Layer) -> list[Any]:
    values = dict(zip((field.name for field in fields(layer)), astuple(layer), strict=True))
    return [values[name] for name in _FIELDS]


def _parse(text: str) -> dict[str, tuple[str, Counted]]:
    content = json.loads(text)
    columns = content["columns"][1:]
    found = {}
    for name, entry in content["models"].items():
        table = tuple((line[0], _layer(dict(zip(columns, line[1:], strict=True)))) for line in entry["layers"])
        found[name] = (entry["source"], table)
    return found


def _layer(values: dict[str, Any]) -> Layer:
    lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    lists["inputs"] = tuple(tuple(shape) for shape in values["inputs"])
    return Layer(name="", **values | lists)
