"""What computing a decoder takes beside its sizes: plain numbers, which the reference runtime and kernels read alike.

A layer is  x += o(attend(rope(q), rope(k), v)); x += down(act(gate, up)),  each behind an RMSNorm; see `Decoder` for
what may differ. The files of `halve.models.families` read these numbers from a config.json.
"""

from dataclasses import dataclass
from typing import Literal

from halve.models.geometry import Geometry
from halve.models.rotary import Rotary

EMBEDDING = "model.embed_tokens"
NORM = "model.norm"

# silu(gate) * up; gelu(gate) * up by its tanh formula; and gpt-oss's gate * sigmoid(1.702 gate) * (up + 1), clamped
Activation = Literal["silu", "gelu_tanh", "swigluoai"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoder:
    """A decoder's geometry and arithmetic.

    Every RMSNorm adds ``eps`` to the mean square and multiplies by its weight + ``norm_offset``. Embeddings are
    multiplied by ``embedding_scale``, queries by ``attention_scale``. A cap c turns scores or logits s into
    c * tanh(s / c). ``activation_limit`` is where swigluoai clamps gate and up.

    Of each layer ``windows`` says how many positions its attention looks back, its own included (None: to the
    beginning), and ``rotary_of`` which of ``rotaries`` turns its queries and keys.

    ``experts_per_token`` experts are chosen for a token, those with the largest router outputs; the weights of theirs
    are softmax over the chosen where ``experts_normalized``, and over all experts otherwise.
    """

    geometry: Geometry
    context: int
    eps: float
    attention_scale: float
    rotaries: tuple[Rotary, ...]
    rotary_of: tuple[int, ...]
    windows: tuple[int | None, ...]
    activation: Activation = "silu"
    activation_limit: float = 0.0
    norm_offset: float = 0.0
    embedding_scale: float = 1.0
    attention_cap: float | None = None
    logit_cap: float | None = None
    experts_per_token: int = 0
    experts_normalized: bool = True

    def is_long(self, length: int) -> bool:
        """Whether a text of ``length`` tokens is turned by other frequencies than a short one (LongRoPE)."""
        return any(rotary.is_long(length) for rotary in self.rotaries)
