"""Numbers of a config.json that may come from anybody."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from halve.errors import CheckpointError


def positive(config: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A number above zero. Raises CheckpointError where ``config`` says something else, or nothing without default."""
    value = config.get(key)
    if value is None:
        value = default
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0 or not isfinite(value):
        raise wrong(key, value, "a positive number")
    return float(value)


def size(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A whole number above zero. Raises CheckpointError like :func:`positive`."""
    value = positive(config, key, default)
    if value != int(value):
        raise wrong(key, value, "a whole number")
    return int(value)


def wrong(key: str, value: object, wanted: str) -> CheckpointError:
    """The error for a value that cannot be."""
    return CheckpointError(
        f"config.json says {key} = {value!r}, which is not {wanted}", hint="take config.json from the original model"
    )
