"""What is asked of the scheduler, and what it answers."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from halve.errors import HalveError
from halve.runtime.sample import Sampling

Reason = Literal["stop", "length"]  # the API's words: an end token or a stop text; max_tokens or the context


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One prompt [T] for one model.

    ``alternatives``: how many likely tokens stand beside each token's log probability; None: no log probabilities.
    ``score_prompt`` wants them for the prompt as well. ``client`` is whose turn it takes.
    """

    model: str
    prompt: NDArray[np.int64]
    sampling: Sampling
    max_tokens: int
    stop: tuple[str, ...] = ()
    alternatives: int | None = None
    score_prompt: bool = False
    client: str = ""


@dataclass(frozen=True, slots=True)
class Scored:
    """A token with its log probability (None: the first of a prompt) and the likeliest ones at its place."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is sure to be part of the answer, and tokens: those of the prompt first, where they are scored."""

    text: str
    scored: tuple[Scored, ...]


@dataclass(frozen=True, slots=True)
class End:
    """Nothing comes after it."""

    reason: Reason
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Nothing comes after it."""

    error: HalveError


Event = Piece | End | Failed
