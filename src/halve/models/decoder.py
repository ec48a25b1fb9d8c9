"""What computing a decoder of the Llama family takes beside its sizes, as a config.json says it.

The members (Llama, SmolLM2, Mistral, Qwen2, Qwen3) differ in biases, in norms on the heads of queries and keys, in a
sliding window, and in whether the output head is the embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halve.errors import CheckpointError, UnsupportedError
from halve.models import rotary, setting
from halve.models.geometry import Geometry

EMBEDDING = "model.embed_tokens"
NORM = "model.norm"
# What transformers' classes assume where config.json is silent.
_CONTEXT = {"llama": 2048, "mistral": 131072, "qwen2": 32768, "qwen3": 32768}
_EPS = 1e-6
_THETA = 10000.0
_WINDOW = 4096
_MAX_WINDOW_LAYERS = 28


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoder:
    """A decoder's geometry and arithmetic.

    ``frequencies`` [head_dim / 2] are radians per position, ``windows`` how many positions the attention of each layer
    looks back, its own included (None: to the beginning), ``eps`` is that of every RMSNorm.
    """

    geometry: Geometry
    context: int
    eps: float
    frequencies: NDArray[np.float32]
    windows: tuple[int | None, ...]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, name: str) -> "Decoder":
        """The decoder that a config.json describes; ``name`` is what errors call it.

        Raises UnsupportedError for a model type, activation or rope scaling that is not known, CheckpointError for
        numbers that make no sense.
        """
        geometry = Geometry.from_config(config, name=name)
        context = setting.size(config, "max_position_embeddings", _CONTEXT[config["model_type"]])
        if geometry.heads % geometry.kv_heads or geometry.head_dim % 2:
            raise CheckpointError(
                f"{name}: {geometry.heads} query heads, {geometry.kv_heads} key heads of {geometry.head_dim} are no "
                "attention geometry",
                hint="take config.json from the original model",
            )
        if config.get("hidden_act", "silu") not in ("silu", "swish"):
            raise UnsupportedError(
                f"{name}: halve cannot compute hidden_act {config['hidden_act']!r} (it quantizes such models)",
                hint="known: silu",
            )
        return cls(
            geometry=geometry,
            context=context,
            eps=setting.positive(config, "rms_norm_eps", _EPS),
            frequencies=rotary.frequencies(config, geometry.head_dim, theta=_THETA),
            windows=_windows(config, geometry.layers),
        )


def _windows(config: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    """How far each layer's attention looks back."""
    qwen = config["model_type"].startswith("qwen")
    if config["model_type"] == "llama" or (qwen and not config.get("use_sliding_window")):
        return (None,) * layers
    if config.get("sliding_window", _WINDOW) is None:
        return (None,) * layers
    window = setting.size(config, "sliding_window", _WINDOW)
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    first = setting.size(config, "max_window_layers", _MAX_WINDOW_LAYERS) if qwen else 0
    return tuple(window if index >= first else None for index in range(layers))
