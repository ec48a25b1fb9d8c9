"""Text to tokens and back, with the tokenizer that travels with a checkpoint."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from halve.checkpoint.place import Place
from halve.document import json_object
from halve.errors import CheckpointError

_REPLACEMENT = "\ufffd"  # what bytes that are not yet a character decode to
_LONGEST_CHARACTER = 4  # bytes, and therefore tokens, of one character in UTF-8


class Tokenizer:
    """The tokenizer among the ``files`` of the checkpoint at ``path``: tokenizer.json and what stands beside it.

    Raises CheckpointError where there is none, or where it cannot be used.
    """

    def __init__(self, path: Place, files: Mapping[str, bytes]) -> None:
        if "tokenizer.json" not in files:
            raise CheckpointError(
                f"{path}: there is no tokenizer.json, which text needs",
                hint="fetch it with the model; for an old model: AutoTokenizer.from_pretrained(...).save_pretrained()",
            )
        with _library_errors(path):
            self._tokenizer = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._path = path
        self._generation = json_file(path, files, "generation_config.json")
        self._settings = json_file(path, files, "tokenizer_config.json")

    @property
    def size(self) -> int:
        """How many tokens it knows; the model's vocabulary may be padded beyond."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str, *, special: bool = True) -> NDArray[np.int64]:
        """Tokens of ``text``; with ``special``, what the tokenizer puts around every text, such as a beginning token.

        Special tokens that are spelled out in the text are recognised either way, as chat templates need.
        """
        with _library_errors(self._path):
            return np.array(self._tokenizer.encode(text, add_special_tokens=special).ids, np.int64)

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of ``tokens``, without special tokens."""
        with _library_errors(self._path):
            return str(self._tokenizer.decode([int(token) for token in tokens]))

    def ends(self, config: Mapping[str, Any]) -> frozenset[int]:
        """Tokens that end a text, by generation_config.json, ``config`` and the tokenizer's own ``eos_token``."""
        ids: set[int] = set()
        for found in (self._generation.get("eos_token_id"), config.get("eos_token_id")):
            ids.update(id_ for id_ in (found if isinstance(found, list) else [found]) if isinstance(id_, int))
        own = self._tokenizer.token_to_id(token_text(self._settings.get("eos_token")))
        return frozenset(ids if own is None else {*ids, own})


@contextmanager
def _library_errors(path: Place) -> Iterator[None]:
    """CheckpointErrors in place of what the tokenizers library raises: bare Exception, and Rust's panics beside it."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:  # noqa: BLE001 - a panic is no Exception: pyo3 means it to end the program
        raise CheckpointError(
            f"{path}: tokenizer.json cannot be read: {error}", hint="fetch it again from the original model"
        ) from None


class Streamed:
    """Text of tokens that come one by one: each piece is given out once all its bytes are there."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._said: list[int] = []  # the tokens of the last piece: how a piece begins depends on what is before it
        self._waiting: list[int] = []

    def push(self, token: int) -> str:
        """The text that ``token`` completes; empty while a character is incomplete."""
        self._waiting.append(token)
        piece = self._piece()
        if piece.endswith(_REPLACEMENT) and len(self._waiting) < _LONGEST_CHARACTER:
            return ""
        if piece:
            self._said, self._waiting = self._waiting, []
        return piece

    def flush(self) -> str:
        """What is left at the end, complete or not."""
        piece = self._piece() if self._waiting else ""
        self._said, self._waiting = [], []
        return piece

    def _piece(self) -> str:
        before = self._tokenizer.decode(self._said)
        return self._tokenizer.decode([*self._said, *self._waiting])[len(before) :]


def json_file(path: Place, files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """The JSON object in file ``name``; empty where there is no such file. Raises CheckpointError where it is none."""
    if name not in files:
        return {}
    return json_object(files[name], f"{path}: {name}", hint="fetch it again")


def token_text(token: object) -> str:
    """The text of a special token as tokenizer_config.json gives it: a string, or an object with ``content``."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def first_of(text: str, stops: Sequence[str]) -> int:
    """Where the first of ``stops`` begins in ``text``; -1 where none does."""
    found = [index for stop in stops if (index := text.find(stop)) >= 0]
    return min(found, default=-1)


def beginning_of(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of ``text`` may be the beginning of one of ``stops``."""
    longest = max(map(len, stops), default=0) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0
