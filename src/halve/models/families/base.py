"""What the families share: sizes and settings that a config.json calls alike, and what is plain where nothing is said.

A family's functions take these and replace what is its own. Defaults are those of transformers' config classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from halve.errors import CheckpointError, UnsupportedError
from halve.models import rotary, setting
from halve.models.decoder import Activation, Decoder
from halve.models.geometry import Geometry

Config = Mapping[str, Any]

THETA = 10000.0
EPS = 1e-6
WINDOW = 4096

_ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


class GeometryOf(Protocol):
    """What makes a geometry of a config.json."""

    def __call__(self, config: Config, name: str, source: str, /) -> Geometry:
        """``name`` is what errors call it, ``source`` where it came from."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How the config.json of some ``model_types`` is read."""

    model_types: tuple[str, ...]
    geometry: GeometryOf
    decoder: Callable[[Config, Geometry], Decoder]


def sizes(
    config: Config, name: str, source: str, *, head_dim: int | None = None, kv_heads: int | None = None,
    tied: bool = False,
) -> Geometry:  # fmt: skip
    """The sizes that every config.json gives; ``head_dim``, ``kv_heads`` and ``tied`` hold where it does not."""
    heads, hidden = size(config, "num_attention_heads", name), size(config, "hidden_size", name)
    bias = bool(config.get("attention_bias", False))
    return Geometry(
        name=name,
        hidden=hidden,
        intermediate=size(config, "intermediate_size", name),
        layers=size(config, "num_hidden_layers", name),
        heads=heads,
        kv_heads=size(config, "num_key_value_heads", name, default=kv_heads or heads),
        head_dim=size(config, "head_dim", name, default=head_dim or hidden // heads),
        vocab=size(config, "vocab_size", name),
        tied=bool(config.get("tie_word_embeddings", tied)),
        qkv_bias=bias,
        o_bias=bias,
        source=source,
    )


def arithmetic(
    config: Config,
    geometry: Geometry,
    *,
    context: int,
    eps: float = EPS,
    activation: str = "silu",
    rotation: rotary.Rotary | None = None,
    windows: Sequence[int | None] | None = None,
) -> Decoder:
    """A plain decoder: one rotation, silu, attention to the beginning unless told otherwise."""
    return Decoder(
        geometry=geometry,
        context=setting.size(config, "max_position_embeddings", context),
        eps=setting.positive(config, "rms_norm_eps", eps),
        attention_scale=geometry.head_dim**-0.5,
        rotaries=(rotation or rotary.read(config, geometry.head_dim, theta=THETA, context=context),),
        rotary_of=(0,) * geometry.layers,
        windows=(None,) * geometry.layers if windows is None else tuple(windows),
        activation=_activation(config, activation, geometry.name),
    )


_KINDS = ("sliding_attention", "full_attention")


def layer_types(config: Config, layers: int, sliding: Callable[[int], bool]) -> list[bool]:
    """Of each layer whether it looks through a window: as ``layer_types`` says, else as ``sliding`` does."""
    kinds = config.get("layer_types")
    if kinds is None:
        return [sliding(index) for index in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers or any(k not in _KINDS for k in kinds):
        raise setting.wrong("layer_types", kinds, f"a list of {layers} kinds of attention")
    return [kind == "sliding_attention" for kind in kinds]


def window(config: Config, default: int | None) -> int | None:
    """How far attention through a window looks back; None: to the beginning, where config.json says null."""
    if config.get("sliding_window", default) is None:
        return None
    return setting.size(config, "sliding_window", default)


def cap(config: Config, key: str, default: float | None) -> float | None:
    """A soft cap; None where config.json says null."""
    return None if config.get(key, default) is None else setting.positive(config, key, default)


def size(config: Config, key: str, name: str, default: int | None = None) -> int:
    """A size of the model that errors call ``name``. Raises CheckpointError for what is none."""
    value = config.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(
            f"{name}: config.json says {key} = {value!r}, which is no size",
            hint="a model's config.json gives all sizes",
        )
    return value


def chosen(config: Config, key: str, experts: int, name: str, default: int) -> int:
    """How many of ``experts`` a token takes. Raises CheckpointError for more than there are."""
    found = size(config, key, name, default=default)
    if found > experts:
        raise CheckpointError(
            f"{name}: config.json says {key} = {found}, and there are {experts} experts",
            hint="take config.json from the original model",
        )
    return found


def _activation(config: Config, default: str, name: str) -> Activation:
    key = "hidden_activation" if config.get("hidden_activation") is not None else "hidden_act"
    found = config.get(key) or default
    if not isinstance(found, str) or found not in _ACTIVATIONS:
        raise UnsupportedError(
            f"{name}: halve cannot compute {key} {found!r} (it quantizes such models)",
            hint=f"known: {', '.join(_ACTIVATIONS)}",
        )
    return _ACTIVATIONS[found]
