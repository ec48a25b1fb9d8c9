"""What every model that runs offers, whatever runs it: logits of tokens, and text from text."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from halve.checkpoint.place import Place
from halve.checkpoint.source import open_checkpoint
from halve.errors import CheckpointError, UnsupportedError
from halve.runtime.chat import Chat, Message
from halve.runtime.generate import Generated, Stream
from halve.runtime.kv_cache import Context
from halve.runtime.sample import Sampling
from halve.runtime.text import Tokenizer

Prompt = str | Sequence[Message]
Array = NDArray[np.float32]
C = TypeVar("C", bound=Context)


class LanguageModel(ABC, Generic[C]):
    """A decoder whose caches are ``C``. ``engine`` says in a few words what computes it. One thread at a time."""

    engine: str

    def __init__(self, path: Place, config: dict[str, Any], *, vocabulary: int, context: int) -> None:
        self.path = path
        self.config = config
        self.vocabulary = vocabulary
        self.context = context

    @abstractmethod
    def new_cache(self) -> C:
        """An empty cache for this model."""

    @abstractmethod
    def _forward(self, tokens: NDArray[np.int64], cache: C | None, start: int) -> Array: ...

    def logits(self, tokens: NDArray[np.int64], cache: C | None = None, *, start: int = 0) -> Array:
        """Logits [T, vocabulary] after each of ``tokens`` [T], which follow those in ``cache`` and are added to it.

        ``start`` leaves out the logits of the first ``start`` tokens: the output head costs as much as many layers.

        Raises UnsupportedError for more tokens than the context holds, CheckpointError for tokens outside the
        vocabulary and where a layer's outputs are not finite, naming the first such layer.
        """
        ids = self._checked(np.asarray(tokens))
        self.check_length(len(ids) + (0 if cache is None else len(cache)))
        with np.errstate(all="ignore"):  # what is not finite is found and named layer by layer
            logits = self._forward(ids, cache, start)
        if cache is not None:
            cache.commit(ids.tolist())
        return logits

    def _checked(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """Tokens as integers of 64 bits. Raises UnsupportedError for what is no list of integers, CheckpointError."""
        if ids.ndim != 1 or not ids.size or ids.dtype.kind not in "iu":
            raise UnsupportedError(
                f"tokens are a list of one or more integers; this is {ids.dtype} of shape {list(ids.shape)}",
                hint="give one sequence at a time",
            )
        outside = ids[(ids < 0) | (ids >= self.vocabulary)]
        if outside.size:
            raise CheckpointError(
                f"{self.path}: token {outside[0]} is outside the vocabulary of {self.vocabulary}",
                hint="the tokenizer belongs to another model: fetch the checkpoint again",
            )
        return ids.astype(np.int64, copy=False)

    def check_length(self, tokens: int) -> None:
        """Raise UnsupportedError where ``tokens`` are more than the context holds."""
        if tokens > self.context:
            raise UnsupportedError(
                f"{self.path}: {tokens} tokens are more than the context of {self.context} (max_position_embeddings)",
                hint="shorten the text, or split it",
            )

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises CheckpointError where the checkpoint has none that can be used."""
        return Tokenizer(self.path, self._files)

    @cached_property
    def chat(self) -> Chat:
        """The chat template; one without template where the checkpoint has none."""
        return Chat(self.path, self._files)

    @cached_property
    def _files(self) -> Mapping[str, bytes]:
        checkpoint = open_checkpoint(self.path)
        try:
            return checkpoint.auxiliary()
        finally:
            checkpoint.close()

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        chat: bool = True,
        stop: Sequence[str] = (),
        cache: C | None = None,
    ) -> Stream:
        """The continuation of ``prompt`` (a text, or the messages of a chat) piece by piece; parameters as `generate`.

        What of the prompt ``cache`` holds already is not computed again.
        """
        sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
        if max_tokens < 1:
            raise UnsupportedError(f"max_tokens = {max_tokens}: at least one token is generated", hint="say 1 or more")
        messages: Sequence[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if chat and self.chat.available:
            tokens = self.tokenizer.encode(self.chat.render(messages), special=False)
        else:
            tokens = self.tokenizer.encode("\n".join(message["content"] for message in messages))
        self.check_length(len(tokens) + 1)
        return Stream(
            self,
            self.tokenizer,
            tokens,
            ends=self.tokenizer.ends(self.config),
            sampling=sampling,
            max_tokens=max_tokens,
            stop=tuple(stop),
            cache=self.new_cache() if cache is None else cache,
        )

    def generate(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        chat: bool = True,
        stop: Sequence[str] = (),
    ) -> Generated:
        """Continue ``prompt``: a text, or messages such as ``[{"role": "user", "content": "..."}]``.

        ``temperature`` 0 takes the likeliest token each time; ``top_k`` (0: all) and ``top_p`` leave the unlikely ones
        out of the draw. ``chat=False`` leaves the chat template out; a model without one never uses it. Ends at the
        model's end tokens, at a ``stop`` text, after ``max_tokens``, or with the context.

        Raises CheckpointError for a missing tokenizer or a damaged chat template, UnsupportedError for a prompt longer
        than the context and for parameters out of range.
        """
        stream = self.stream(
            prompt,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            seed=seed,
            chat=chat,
            stop=stop,
        )
        for _ in stream:
            pass
        return stream.result
