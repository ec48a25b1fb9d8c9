"""Numbers of a config.json that may come from anybody."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from halve.errors import CheckpointError

LARGEST = 1 << 31  # of any size in a config.json: what is allocated by one stays within reason
MAX_LAYERS = 10_000  # the deepest models have 128


_MAX = 1e30  # above it float32 arithmetic overflows; it also keeps integers off that no float holds


def positive(config: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A number above zero. Raises CheckpointError where ``config`` says something else, or nothing without default."""
    value = config.get(key)
    if value is None:
        value = default
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= _MAX or not isfinite(value):
        raise wrong(key, value, "a positive number")
    return float(value)


def size(config: Mapping[str, Any], key: str, default: int | None = None, *, most: int = LARGEST) -> int:
    """A whole number above zero and up to ``most``. Raises CheckpointError like :func:`positive`."""
    value = positive(config, key, default)
    if value != int(value) or value > most:
        raise wrong(key, value, f"a whole number up to {most}")
    return int(value)


def wrong(key: str, value: object, wanted: str) -> CheckpointError:
    """The error for a value that cannot be."""
    return CheckpointError(
        f"config.json says {key} = {value!r}, which is not {wanted}", hint="take config.json from the original model"
    )
