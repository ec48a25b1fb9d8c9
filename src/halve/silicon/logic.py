"""Logic functions as Liberty writes them, on 64 cases at a time."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halve.errors import CheckpointError

Lanes = NDArray[np.uint64]  # a case for every bit
Expression = Callable[[Mapping[str, Lanes]], Lanes]
_TOKEN = re.compile(r"\s*([()!'^*&+|]|\w+)")
_MOST_DEPTH = 50


def parse(text: str, where: str = "function") -> Expression:
    """The function ``text``: ``!`` or ``'`` not, ``^`` exclusive or, ``*``, ``&`` or a blank and, ``+`` or ``|`` or.

    >>> nand = parse("!(A B)")
    >>> bin(int(nand({"A": np.array([0b1100], np.uint64), "B": np.array([0b1010], np.uint64)})[0]) & 0b1111)
    '0b111'

    Raises CheckpointError for what is no function.
    """
    tokens, at = [], 0
    while text[at:].strip():
        found = _TOKEN.match(text, at)
        if found is None:
            break
        tokens.append(found[1])
        at = found.end()
    parser = _Parser(tokens, where, text)
    if text[at:].strip() or not tokens:
        raise parser.error()
    expression = parser.either()
    if parser.tokens:
        raise parser.error()
    return expression


@dataclass(slots=True)
class _Parser:
    """Recursive descent; the first word is taken from the front."""

    tokens: list[str]
    where: str
    text: str
    depth: int = 0

    def error(self) -> CheckpointError:
        return CheckpointError(f"{self.where}: {self.text!r} is no logic function", hint="such as !((A B)+C)")

    def either(self) -> Expression:
        left = self._both()
        while self.tokens and self.tokens[0] in "+|":
            self.tokens.pop(0)
            left = _or(left, self._both())
        return left

    def _both(self) -> Expression:
        left = self._exclusive()
        while self.tokens and self.tokens[0] not in ("+", "|", ")"):
            if self.tokens[0] in "*&":
                self.tokens.pop(0)
            left = _and(left, self._exclusive())
        return left

    def _exclusive(self) -> Expression:
        left = self._factor()
        while self.tokens and self.tokens[0] == "^":
            self.tokens.pop(0)
            left = _xor(left, self._factor())
        return left

    def _factor(self) -> Expression:
        self.depth += 1
        if not self.tokens or self.depth > _MOST_DEPTH:
            raise self.error()
        word = self.tokens.pop(0)
        if word == "!":
            expression = _not(self._factor())
        elif word == "(":
            expression = self.either()
            if not self.tokens or self.tokens.pop(0) != ")":
                raise self.error()
        elif word in ("0", "1"):
            expression = _constant(word == "1")
        elif word.isidentifier():
            expression = _variable(word)
        else:
            raise self.error()
        while self.tokens and self.tokens[0] == "'":
            self.tokens.pop(0)
            expression = _not(expression)
        self.depth -= 1
        return expression


def _variable(name: str) -> Expression:
    return lambda values: values[name]


def _constant(value: bool) -> Expression:
    word = np.uint64(0xFFFF_FFFF_FFFF_FFFF if value else 0)
    return lambda values: np.full_like(next(iter(values.values())), word)


def _not(x: Expression) -> Expression:
    return lambda values: ~x(values)


def _and(x: Expression, y: Expression) -> Expression:
    return lambda values: x(values) & y(values)


def _or(x: Expression, y: Expression) -> Expression:
    return lambda values: x(values) | y(values)


def _xor(x: Expression, y: Expression) -> Expression:
    return lambda values: x(values) ^ y(values)
