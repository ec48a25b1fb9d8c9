"""One prompt on its way through a model: read in chunks, then answered token by token."""

from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halve.errors import HalveError
from halve.runtime.language_model import LanguageModel
from halve.runtime.sample import Sampler
from halve.runtime.text import Streamed, beginning_of, first_of
from halve.serve.job import End, Event, Failed, Job, Piece, Reason, Scored
from halve.serve.scores import score

CHUNK = 256  # tokens of a prompt between two steps of the others


class Sequence:
    """A ``job`` for ``model``; `deliver` calls ``receive`` with each event, on the scheduler's thread.

    ``cancelled`` may be set by any thread; all else is the scheduler's.
    """

    def __init__(self, job: Job, model: LanguageModel[Any], receive: Callable[[Event], None]) -> None:
        self.job, self.model = job, model
        self.arrived = perf_counter()
        self.first: float | None = None  # when the first token was there
        self.cancelled = False
        self.outcome = ""  # done or failed, once it has ended
        self.reserved = len(job.prompt) + job.max_tokens  # positions
        self.new_tokens = 0
        self.step_seconds = 0.0  # of the steps that drew them; other models' steps in between do not count
        self.next_token = 0  # drawn, and not yet read
        self.cache: Any = None
        self._cache_bytes = 0
        self._receive = receive
        self._events: list[Event] = []  # to be delivered
        self._read = 0
        self._sampler = Sampler(job.sampling)
        self._ends = model.tokenizer.ends(model.config)
        self._streamed = Streamed(model.tokenizer)
        self._held = ""  # decoded, but perhaps the beginning of a stop text
        self._scored: list[Scored] = []

    @property
    def reading(self) -> bool:
        """Whether some of the prompt has not been read."""
        return self._read < len(self.job.prompt)

    @property
    def cache_bytes(self) -> int:
        """Bytes of its cache, or of the one that it had. Any thread may ask."""
        cache = self.cache
        return self._cache_bytes if cache is None else int(cache.nbytes)

    def release(self) -> None:
        """Give back the memory of its cache."""
        self._cache_bytes = self.cache_bytes
        self.cache = None

    def read(self) -> None:
        """Read the next chunk of the prompt; after the last one, draw the first token."""
        job = self.job
        if self.cache is None:
            self.cache = self.model.new_cache()
        chunk = job.prompt[self._read : self._read + CHUNK]
        wanted = job.score_prompt and job.alternatives is not None
        logits = self.model.logits(chunk, self.cache, start=0 if wanted else len(chunk) - 1)
        if wanted:
            self._score_prompt(logits)
        self._read += len(chunk)
        if self.reading:
            return
        if self._scored:
            self._say("")
        self.first = perf_counter()
        if job.max_tokens:
            self.accept(logits[-1])
        else:
            self._end("length")

    def accept(self, logits: NDArray[np.float32]) -> None:
        """Draw a token from ``logits`` [vocabulary], and say what it completes."""
        token = self._sampler(logits)
        if token in self._ends:
            self._finish("stop")
            return
        self.new_tokens += 1
        self.next_token = token
        if self.job.alternatives is not None:
            self._scored += score(logits[None], np.array([token]), self.job.alternatives)
        self._held += self._streamed.push(token)
        if self._cut():
            self._end("stop")
        elif self.new_tokens == self.job.max_tokens or len(self.cache) == self.model.context:
            self._finish("length")
        elif sure := len(self._held) - beginning_of(self._held, self.job.stop):
            self._say(self._held[:sure])
            self._held = self._held[sure:]

    def fail(self, error: HalveError) -> None:
        """End with ``error``."""
        self.outcome = "failed"
        self._events.append(Failed(error))

    def deliver(self) -> None:
        """Hand over the events. It wakes who waits for them, which would hold up the draws of other sequences."""
        for event in self._events:
            self._receive(event)
        self._events.clear()

    def _score_prompt(self, logits: NDArray[np.float32]) -> None:
        """Score the tokens that ``logits`` foretell; the logits after the last one foretell the answer."""
        alternatives = self.job.alternatives or 0
        if not self._read:
            self._scored.append(Scored(int(self.job.prompt[0]), None, ()))
        following = self.job.prompt[self._read + 1 : self._read + 1 + len(logits)]
        self._scored += score(logits[: len(following)], following, alternatives)

    def _finish(self, reason: Reason) -> None:
        """End after what is still undecided."""
        self._held += self._streamed.flush()
        self._end("stop" if self._cut() else reason)

    def _cut(self) -> bool:
        """Cut the text before the first stop text in it, if there is one."""
        at = first_of(self._held, self.job.stop)
        if at >= 0:
            self._held = self._held[:at]
        return at >= 0

    def _end(self, reason: Reason) -> None:
        if self._held or self._scored:
            self._say(self._held)
        self.outcome = "done"
        self._events.append(End(reason, self.new_tokens))

    def _say(self, text: str) -> None:
        self._events.append(Piece(text, tuple(self._scored)))
        self._scored = []


def step(sequences: Iterable[Sequence]) -> None:
    """Read the last token of each of ``sequences``, all of one model, and draw the next.

    A packed model reads its weights once for all of them; the reference path, once for each.
    """
    began = perf_counter()
    group = list(sequences)
    model = group[0].model
    tokens = [sequence.next_token for sequence in group]
    caches = [sequence.cache for sequence in group]
    together = getattr(model, "next_logits", None)
    if together is not None:
        rows = together(tokens, caches)
    else:
        pairs = zip(tokens, caches, strict=True)
        rows = [model.logits(np.array([token], np.int64), cache)[-1] for token, cache in pairs]
    for sequence, logits in zip(group, rows, strict=True):
        sequence.accept(logits)
    seconds = perf_counter() - began
    for sequence in group:
        sequence.step_seconds += seconds
