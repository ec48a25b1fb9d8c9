"""Where a factor a channel can be moved: from what produces the channel to the linear layers that consume it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class _Shaped(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class Edge:
    """A producer (a norm, or a linear layer whose rows are the channels) and the weights that consume its channels.

    With ``groups`` > 1 each block of ``head`` produced channels is consumed ``groups`` times (grouped-query attention).
    """

    producer: str
    consumers: tuple[str, ...]
    groups: int = 1
    head: int = 0

    def shared(self, consumed: NDArray[np.float32]) -> NDArray[np.float32]:
        """The largest of what is known of the consumed copies of each produced channel."""
        if self.groups == 1:
            return consumed
        largest: NDArray[np.float32] = consumed.reshape(-1, self.groups, self.head).max(1)
        return largest.reshape(-1)

    def spread(self, produced: NDArray[np.float32]) -> NDArray[np.float32]:
        """One number a consumed channel from one a produced channel."""
        if self.groups == 1:
            return produced
        return produced.reshape(-1, 1, self.head).repeat(self.groups, 1).reshape(-1)


_LAYER = re.compile(r"(.*\.layers\.\d+)\.input_layernorm\.weight")
_NORMS = (
    ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
)


def edges(tensors: Mapping[str, _Shaped], config: Mapping[str, Any]) -> list[Edge]:
    """The edges of the decoder layers of the Llama family among ``tensors``; none of another architecture."""
    if config.get("model_type") not in ("llama", "mistral", "qwen2", "qwen3"):
        return []
    found = []
    for match in filter(None, map(_LAYER.fullmatch, tensors)):
        layer = match[1]
        for norm, consumers in _NORMS:
            names = tuple(f"{layer}.{name}.weight" for name in consumers)
            if all(name in tensors for name in names):
                found.append(Edge(f"{layer}.{norm}.weight", names))
        up, down = f"{layer}.mlp.up_proj.weight", f"{layer}.mlp.down_proj.weight"
        if up in tensors and down in tensors:
            found.append(Edge(up, (down,)))
        v, o = f"{layer}.self_attn.v_proj.weight", f"{layer}.self_attn.o_proj.weight"
        if v in tensors and o in tensors:
            groups = tensors[o].shape[1] // tensors[v].shape[0]
            kv_heads = config.get("num_key_value_heads") or config.get("num_attention_heads", 1)
            found.append(Edge(v, (o,), groups, tensors[v].shape[0] // kv_heads))
    return found
