"""The second branch of a decoder layer: a network of three matrices, or experts and the router that chooses them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halve.models.decoder import Decoder
from halve.runtime.activation import gated
from halve.runtime.linear import Array, Fused, Linear, Observe, Split


@dataclass(frozen=True, slots=True)
class Mlp:
    """``down(activation(gate, up))``; one expert is one, too."""

    decoder: Decoder
    gate_up: Fused | Split
    down: Linear

    def __call__(self, x: Array, observe: Observe | None) -> Array:
        """Outputs [T, hidden] of ``x`` [T, hidden]."""
        gate, up = self.gate_up(x, observe)
        return self.down(gated(self.decoder.activation, gate, up, self.decoder.activation_limit), observe)


@dataclass(frozen=True, slots=True)
class Experts:
    """The sum of what the experts chosen for each token put out, by their weights.

    ``observe`` sees the inputs of the tokens that an expert was chosen for, and nothing of an expert without any.
    """

    decoder: Decoder
    router: Linear
    experts: Sequence[Mlp]

    def __call__(self, x: Array, observe: Observe | None) -> Array:
        """Outputs [T, hidden] of ``x`` [T, hidden]."""
        chosen, weights = self._route(self.router(x, observe))
        outputs = np.zeros_like(x)
        for expert in np.unique(chosen).tolist():
            tokens, places = np.nonzero(chosen == expert)
            outputs[tokens] += self.experts[expert](x[tokens], observe) * weights[tokens, places, None]
        return outputs

    def _route(self, scores: Array) -> tuple[NDArray[np.intp], Array]:
        """Which experts each token takes, and their weights, [T, chosen]; of equal scores the first."""
        count = self.decoder.experts_per_token
        chosen = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        best = np.take_along_axis(scores, chosen, 1)
        weights = np.exp(best - best[:, :1])
        over = weights if self.decoder.experts_normalized else np.exp(scores - best[:, :1])
        weights /= over.sum(1, keepdims=True)
        return chosen, weights
