"""Windows of a text, the second half of which is scored."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halve.errors import UnsupportedError
from halve.evaluate.text import Text
from halve.runtime.text import Tokenizer

Tokens = NDArray[np.int64]
SMALLEST = 8  # tokens of a window: less than this is no context


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """One window of a text. Every token of its second half is predicted from all that stand before it in the window."""

    text: Text
    number: int  # of the window in its text, from 0
    tokens: Tokens

    @property
    def inputs(self) -> Tokens:
        """What a model reads: the last token is only predicted."""
        return self.tokens[:-1]

    @property
    def start(self) -> int:
        """The first position among the inputs whose prediction is scored."""
        return len(self.tokens) // 2 - 1

    @property
    def targets(self) -> Tokens:
        """The tokens that are scored."""
        return self.tokens[self.start + 1 :]


def cut(text: Text, tokenizer: Tokenizer, *, windows: int, window: int) -> list[Passage]:
    """Up to ``windows`` windows of ``window`` tokens from the start of ``text``; none overlaps another.

    The text is tokenized once, as a whole. Where the tokenizer puts something before every text (a beginning token),
    that opens each window and counts as part of it.

    Raises UnsupportedError where the text is shorter than a window.
    """
    tokens = tokenizer.encode(text.content, special=False)
    opening = _opening(tokenizer)
    step = window - len(opening)
    if len(tokens) < step:
        raise UnsupportedError(
            f"{text.name} has {len(tokens) + len(opening)} tokens, fewer than a window of {window}",
            hint="give a longer text, or a smaller --window",
        )
    return [
        Passage(text, number, np.concatenate([opening, tokens[number * step : (number + 1) * step]]))
        for number in range(min(windows, len(tokens) // step))
    ]


def _opening(tokenizer: Tokenizer) -> Tokens:
    """What ``tokenizer`` puts before every text; it may also put something after it, which no window has."""
    bare, whole = tokenizer.encode("a", special=False), tokenizer.encode("a")
    for start in range(len(whole) - len(bare) + 1):
        if np.array_equal(whole[start : start + len(bare)], bare):
            return whole[:start]
    return whole[:0]
