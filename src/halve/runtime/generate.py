"""Text from a model, token by token."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from halve.errors import UnsupportedError
from halve.runtime.kv_cache import Context
from halve.runtime.sample import Sampler, Sampling
from halve.runtime.text import Streamed, Tokenizer, beginning_of, first_of

C = TypeVar("C", bound=Context)
C_contra = TypeVar("C_contra", bound=Context, contravariant=True)
Why = Literal["end", "stop", "length", "context", "interrupted"]


class Decoder(Protocol[C_contra]):
    """What generating needs of a model."""

    context: int
    engine: str

    def logits(
        self, tokens: NDArray[np.int64], cache: C_contra | None = None, *, start: int = 0
    ) -> NDArray[np.float32]:
        """Logits after each token from ``start`` on."""
        ...


@dataclass(frozen=True, slots=True)
class Statistics:
    """How a generation went, and what computed it. The reference path is float32 in numpy: right, not fast."""

    prompt_tokens: int
    cached_tokens: int  # of the prompt: computed before, and not again
    new_tokens: int
    prompt_seconds: float
    seconds: float  # after the first new token
    path: str  # what computed it
    stopped: Why  # end token, stop text, max_tokens, end of the context, or the caller left off

    @property
    def prompt_tokens_per_s(self) -> float:
        """Speed of reading the prompt."""
        return (self.prompt_tokens - self.cached_tokens) / self.prompt_seconds if self.prompt_seconds else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Speed of writing, the first token apart: that one comes with the prompt."""
        return (self.new_tokens - 1) / self.seconds if self.seconds and self.new_tokens > 1 else 0.0

    def __str__(self) -> str:
        return (
            f"{self.prompt_tokens} prompt tokens in {self.prompt_seconds:.2f} s ({self.prompt_tokens_per_s:.0f}/s), "
            f"{self.new_tokens} new in {self.seconds:.2f} s ({self.tokens_per_s:.1f}/s), {self.path}"
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            **asdict(self),
            "prompt_tokens_per_s": self.prompt_tokens_per_s,
            "tokens_per_s": self.tokens_per_s,
        }


@dataclass(frozen=True, slots=True)
class Generated:
    """What a model wrote."""

    text: str
    tokens: tuple[int, ...]
    statistics: Statistics

    def __str__(self) -> str:
        return self.text

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {"text": self.text, "tokens": list(self.tokens), "statistics": self.statistics.to_json()}


class Stream:
    """The pieces of a text as a model writes them; ``result`` is what there is so far. Can be read once.

    A piece ends where a character does, and nothing of a ``stop`` text is ever given out.
    """

    def __init__(
        self,
        model: Decoder[C],
        tokenizer: Tokenizer,
        prompt: NDArray[np.int64],
        *,
        ends: frozenset[int],
        sampling: Sampling,
        max_tokens: int,
        stop: Sequence[str],
        cache: C,
    ) -> None:
        if not len(prompt):
            raise UnsupportedError("the prompt has no tokens", hint="say something")
        self._model: Decoder[Any] = model
        self._prompt = prompt
        self._ends = ends
        self._sampler = Sampler(sampling)
        self._max_tokens = max_tokens
        self._stop = tuple(text for text in stop if text)
        self._cache = cache
        # The last token is always computed, for its logits.
        self._cached = cache.keep(prompt[:-1].tolist())
        self._streamed = Streamed(tokenizer)
        self._tokens: list[int] = []
        self._text = ""
        self._prompt_seconds = self._seconds = 0.0
        self._stopped: Why = "interrupted"
        self._pieces = self._run()

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    @property
    def result(self) -> Generated:
        """What has been written so far, and how it went."""
        statistics = Statistics(
            prompt_tokens=len(self._prompt),
            cached_tokens=self._cached,
            new_tokens=len(self._tokens),
            prompt_seconds=self._prompt_seconds,
            seconds=self._seconds,
            path=self._model.engine,
            stopped=self._stopped,
        )
        return Generated(self._text, tuple(self._tokens), statistics)

    def _run(self) -> Iterator[str]:
        held = ""  # decoded, but perhaps the beginning of a stop text
        for token in self._drawn():
            held += self._streamed.push(token)
            if (at := first_of(held, self._stop)) >= 0:
                held, self._stopped = held[:at], "stop"
                break
            sure = len(held) - beginning_of(held, self._stop)
            if sure:
                yield self._say(held[:sure])
                held = held[sure:]
        else:
            held += self._streamed.flush()
            if (at := first_of(held, self._stop)) >= 0:
                held, self._stopped = held[:at], "stop"
        if held:
            yield self._say(held)

    def _drawn(self) -> Iterator[int]:
        """Tokens one by one; says why there are no more."""
        began = perf_counter()
        tokens = self._prompt[self._cached :]
        while True:
            logits = self._model.logits(tokens, self._cache, start=len(tokens) - 1)[-1]
            token = self._sampler(logits)
            now = perf_counter()
            if not self._tokens:
                self._prompt_seconds, began = now - began, now
            self._seconds = now - began
            if token in self._ends:
                self._stopped = "end"
                return
            self._tokens.append(token)
            yield token
            if len(self._tokens) == self._max_tokens:
                self._stopped = "length"
                return
            if len(self._cache) == self._model.context:
                self._stopped = "context"
                return
            tokens = np.array([token], np.int64)

    def _say(self, piece: str) -> str:
        self._text += piece
        return piece
