"""Rotary position embedding: the angles that a config.json asks for.

Angles are computed in float32, as transformers does: models were trained with these.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor, log, pi, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halve.errors import UnsupportedError
from halve.models import setting

Array = NDArray[np.float32]

MAX_HEAD = 1 << 16  # the widest heads have 512
KNOWN = ("default", "linear", "llama3", "yarn", "longrope")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rotary:
    """``frequencies`` [n] are radians per position of the first 2n components of a head; those behind stay.

    Component j pairs with j + n. Cosines and sines are multiplied by ``scale``. In texts longer than ``short_context``
    tokens ``long_frequencies``, where there are any, take the place of ``frequencies``, from the first position on.
    """

    frequencies: Array
    scale: float = 1.0
    long_frequencies: Array | None = None
    short_context: int = 0

    def is_long(self, length: int) -> bool:
        """Whether the long frequencies hold in a text of ``length`` tokens."""
        return self.long_frequencies is not None and length > self.short_context

    def of(self, length: int) -> Array:
        """The frequencies of a text of ``length`` tokens."""
        long = self.long_frequencies
        return self.frequencies if long is None or length <= self.short_context else long


def read(
    config: Mapping[str, Any],
    head_dim: int,
    *,
    theta: float,
    found: object = None,
    context: int = 0,
    partial: bool = False,
    renamed: Mapping[str, str] | None = None,
) -> Rotary:
    """The rotation that ``config`` asks for; ``theta`` is the base and ``context`` the length where it says none.

    Read are ``rope_parameters`` (transformers 5) and ``rope_theta`` with ``rope_scaling`` (transformers 4), or, where
    given, ``found`` in their place. ``partial`` says that the family may rotate a part of each head, ``renamed`` what
    it means by other names of scalings. Raises UnsupportedError for a scaling that is not known, CheckpointError for
    numbers that make no sense.
    """
    if found is None:
        found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(found, Mapping):
        raise setting.wrong("rope_scaling", found, "an object")
    kind = found.get("rope_type") or found.get("type") or "default"
    kind = (renamed or {}).get(kind, kind) if isinstance(kind, str) else kind
    if kind not in KNOWN:
        raise UnsupportedError(
            f"halve cannot compute rope scaling {kind!r} (it quantizes such models)", hint=f"known: {', '.join(KNOWN)}"
        )
    factor = found.get("partial_rotary_factor", config.get("partial_rotary_factor")) or 1.0
    if factor != 1 and not partial:
        raise UnsupportedError(
            f"halve cannot compute partial_rotary_factor = {factor!r} (it quantizes such models)",
            hint="models of this family that rotate whole heads run",
        )
    rotated = int(
        setting.size({"head_dim": head_dim}, "head_dim", most=MAX_HEAD)
        * setting.positive({"partial_rotary_factor": factor}, "partial_rotary_factor")
    )
    if rotated % 2 or not 0 < rotated <= head_dim:
        raise setting.wrong("partial_rotary_factor", factor, f"an even part of heads of {head_dim}")
    base = setting.positive(found if "rope_theta" in found else config, "rope_theta", theta)
    exponents = np.arange(0, rotated, 2, dtype=np.float32) / np.float32(rotated)
    wavelengths = _powers(base, exponents)  # in positions, without 2 pi
    context = setting.size(config, "max_position_embeddings", context or None) if kind in ("yarn", "longrope") else 0
    match kind:
        case "linear":
            inverse = np.float32(1) / wavelengths
            return Rotary(frequencies=inverse / np.float32(setting.positive(found, "factor")))
        case "llama3":
            return Rotary(frequencies=_llama3(np.float32(1) / wavelengths, found))
        case "yarn":
            return _yarn(wavelengths, found, config, base, context)
        case "longrope":
            return _longrope(wavelengths, found, config, context)
        case _:
            return Rotary(frequencies=np.float32(1) / wavelengths)


def _powers(base: float, exponents: Array) -> Array:
    """``base`` to ``exponents``, rounded once.

    NumPy's float32 powers are an ulp off every fifth time, which turns the second component by 0.006 radians at
    position 100,000; torch's are nearly always the nearest.
    """
    return np.power(np.float64(base), exponents.astype(np.float64)).astype(np.float32)


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


def _yarn(wavelengths: Array, found: Mapping[str, Any], config: Mapping[str, Any], base: float, context: int) -> Rotary:
    """YaRN (arXiv:2309.00071, section 3.2): stretch what turns seldom in the original context, sharpen attention."""
    original = _original(found, config, context)
    factor = setting.positive(found, "factor", context / original)
    rotated = 2 * len(wavelengths)

    def component(turns: float) -> float:
        """Which component turns so often within the original context."""
        return rotated * log(original / (turns * 2 * pi)) / (2 * log(base))

    fast = setting.positive(found, "beta_fast", 32.0)
    slow = setting.positive(found, "beta_slow", 1.0)
    if base == 1:
        raise setting.wrong("rope_theta", base, "a base of powers")
    low, high = component(fast), component(slow)
    if found.get("truncate", True):
        low, high = floor(low), ceil(high)
    low, high = max(low, 0), min(high, rotated - 1)
    if low == high:
        high += 0.001
    steps = (np.arange(len(wavelengths), dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    kept = 1 - np.clip(steps, np.float32(0), np.float32(1))
    inverse = np.float32(1) / (np.float32(factor) * wavelengths) * (1 - kept) + np.float32(1) / wavelengths * kept
    return Rotary(frequencies=inverse, scale=_yarn_scale(found, factor))


def _yarn_scale(found: Mapping[str, Any], factor: float) -> float:
    """YaRN's attention factor: what config.json says, or what it implies."""

    def of(strength: float) -> float:
        return 0.1 * strength * log(factor) + 1 if factor > 1 else 1.0

    if found.get("attention_factor") is not None:
        return setting.positive(found, "attention_factor")
    if found.get("mscale") and found.get("mscale_all_dim"):
        return of(setting.positive(found, "mscale")) / of(setting.positive(found, "mscale_all_dim"))
    return of(1.0)


def _longrope(wavelengths: Array, found: Mapping[str, Any], config: Mapping[str, Any], context: int) -> Rotary:
    """LongRoPE (arXiv:2402.13753): each component has a divisor, one for short and one for long texts."""
    original = _original(found, config, context)
    factor = setting.positive(found, "factor", context / original)
    implied = sqrt(1 + log(factor) / log(original)) if factor > 1 and original > 1 else 1.0
    short, long = (_divisors(found, f"{which}_factor", len(wavelengths)) for which in ("short", "long"))
    return Rotary(
        frequencies=np.float32(1) / (short * wavelengths),
        long_frequencies=np.float32(1) / (long * wavelengths),
        short_context=original,
        scale=setting.positive(found, "attention_factor", implied),
    )


def _original(found: Mapping[str, Any], config: Mapping[str, Any], context: int) -> int:
    """The context that a model had before its rotation was scaled; a number beside the scaling comes first."""
    key = "original_max_position_embeddings"
    return setting.size(found if config.get(key) is None else config, key, context)


def _divisors(found: Mapping[str, Any], key: str, count: int) -> Array:
    values = found.get(key)
    if not isinstance(values, list) or len(values) != count:
        raise setting.wrong(key, values, f"a list of {count} numbers")
    return np.array([setting.positive({key: value}, key) for value in values], np.float32)
