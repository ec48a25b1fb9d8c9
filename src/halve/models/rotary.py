"""Rotary position embedding: the angles that a config.json asks for.

Angles are computed in float32, as transformers does: models were trained with these.
"""

from collections.abc import Mapping
from math import pi
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halve.errors import UnsupportedError
from halve.models import setting

Array = NDArray[np.float32]

KNOWN = ("default", "linear", "llama3")


def frequencies(config: Mapping[str, Any], head_dim: int, *, theta: float) -> Array:
    """Radians per position [head_dim / 2], scaled as config.json says; ``theta`` is the base where it says none.

    Read are ``rope_parameters`` (transformers 5) and ``rope_theta`` with ``rope_scaling`` (transformers 4). Raises
    UnsupportedError for a scaling that is not known, CheckpointError for numbers that make no sense.
    """
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(found, Mapping):
        raise setting.wrong("rope_scaling", found, "an object")
    kind = found.get("rope_type") or found.get("type") or "default"
    if kind not in KNOWN:
        raise UnsupportedError(
            f"halve cannot compute rope scaling {kind!r} (it quantizes such models)", hint=f"known: {', '.join(KNOWN)}"
        )
    partial = found.get("partial_rotary_factor", config.get("partial_rotary_factor")) or 1.0
    if partial != 1:
        raise UnsupportedError(
            f"halve cannot compute partial_rotary_factor = {partial!r} (it quantizes such models)",
            hint="models that rotate whole heads run",
        )
    base = setting.positive(found if "rope_theta" in found else config, "rope_theta", theta)
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    inverse = np.float32(1) / np.float32(base) ** exponents
    if kind == "linear":
        return inverse / np.float32(setting.positive(found, "factor"))
    return _llama3(inverse, found) if kind == "llama3" else inverse


def _llama3(inverse: Array, found: Mapping[str, Any]) -> Array:
    """Llama 3.1's scaling: long wavelengths are stretched, short ones kept, those between interpolated."""
    factor = np.float32(setting.positive(found, "factor"))
    low, high = (setting.positive(found, f"{end}_freq_factor") for end in ("low", "high"))
    context = setting.positive(found, "original_max_position_embeddings")
    if not low < high:
        raise setting.wrong("low_freq_factor", low, f"a number below high_freq_factor, {high}")
    wavelengths = np.float32(2 * pi) / inverse
    smooth = (np.float32(context) / wavelengths - np.float32(low)) / np.float32(high - low)
    between = (1 - smooth) * inverse / factor + smooth * inverse
    stretched = np.where(wavelengths > np.float32(context / low), inverse / factor, inverse)
    middle = (wavelengths <= np.float32(context / low)) & (wavelengths >= np.float32(context / high))
    return np.where(middle, between, stretched)
