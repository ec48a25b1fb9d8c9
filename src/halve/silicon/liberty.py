"""Reading Liberty files: areas, input capacitances and logic functions of a library's combinational cells.

Liberty User Guide, Synopsys, open source version 2017.06.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import NoReturn

import numpy as np

from halve import document
from halve.errors import CheckpointError, UnsupportedError
from halve.silicon.logic import Expression, parse

OWN = "halve.lib"
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\n|[(){}:;,]|[^\s(){}:;,"]+')
_IGNORED = re.compile(r"/\*.*?\*/|\\[ \t]*\r?\n", re.DOTALL)
_NOT_LOGIC = re.compile(r"clk|probe|lpflow", re.IGNORECASE)  # cells of clock trees, test points and power switches
_SEQUENTIAL = ("ff", "latch", "ff_bank", "latch_bank", "statetable")


@dataclass(frozen=True, slots=True)
class Cell:
    """A combinational cell. Area and capacitances are in the units of the library."""

    name: str
    area: float
    capacitance: dict[str, float]  # by input
    functions: dict[str, Expression]  # by output
    usable: bool = True

    def computes(self, outputs: str) -> bool:
        """Whether the cell has one output, which is ``outputs[i]`` where its inputs spell ``i`` in binary."""
        if len(self.functions) != 1 or 1 << len(self.capacitance) != len(outputs):
            return False
        (function,) = self.functions.values()
        rows = product((0, 1), repeat=len(self.capacitance))
        return [_bit(function, dict(zip(self.capacitance, row, strict=True))) for row in rows] == [*map(int, outputs)]


def _bit(function: Expression, values: dict[str, int]) -> int:
    return int(function({name: np.array([value], np.uint64) for name, value in values.items()})[0]) & 1


def _combinational(functions: dict[str, Expression], inputs: Iterable[str]) -> bool:
    """Whether outputs depend on inputs alone, and not on what a cell keeps inside."""
    try:
        for function in functions.values():
            _bit(function, dict.fromkeys(inputs, 0))
    except KeyError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Library:
    """The cells of a Liberty file, and which file it was."""

    name: str
    path: Path
    sha256: str
    cells: dict[str, Cell]

    @property
    def unusable(self) -> tuple[str, ...]:
        """Cells that synthesis has to leave out: several outputs, three states, or no logic."""
        return tuple(sorted(cell.name for cell in self.cells.values() if not cell.usable))

    def smallest(self, outputs: str) -> Cell:
        """The smallest cell that computes ``outputs``. Raises UnsupportedError where there is none."""
        found = [cell for cell in self.cells.values() if cell.usable and cell.computes(outputs)]
        if not found:
            what = {NAND2: "2-input NAND", INVERTER: "inverter"}.get(outputs, outputs)
            raise UnsupportedError(f"{self.path}: the library has no {what}", hint="choose a standard-cell library")
        return min(found, key=lambda cell: (cell.area, cell.name))


NAND2, INVERTER = "1110", "10"


@cache
def own() -> Library:
    """The small library that comes with halve. Its areas and capacitances are relative: `docs/reference/silicon.md`."""
    return read(Path(str(files("halve.silicon").joinpath("data", OWN))))


def read(path: str | Path) -> Library:
    """Read the Liberty file ``path``.

    Raises CheckpointError for a file that is missing or is not Liberty, UnsupportedError for a library without what
    every netlist needs.
    """
    path = Path(path)
    try:
        raw = document.read(path, document.TEXT_LIMIT)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}", hint="--liberty takes the path of a .lib file") from None
    text = _IGNORED.sub(" ", raw.decode("utf-8", "replace"))
    name, cells = _Reader(path, _TOKEN.findall(text)).library()
    library = Library(name, path, sha256(raw).hexdigest(), cells)
    for function in (NAND2, INVERTER):
        library.smallest(function)
    return library


@dataclass(slots=True)
class _Reader:
    """Statements are ``name (arguments) { ... }``, ``name (arguments);`` and ``name : value;``."""

    path: Path
    tokens: list[str]
    at: int = 0

    def library(self) -> tuple[str, dict[str, Cell]]:
        if self._peek() != "library":
            self._fail("the file does not begin with `library (...)`")
        self.at += 1
        arguments, is_group = self._arguments()
        if not is_group:
            self._fail("`library` has no body")
        cells: dict[str, Cell] = {}
        while (word := self._next()) != "}":
            if word == "cell":
                for name in self._group(word):
                    if (cell := self._cell(name)) is not None:
                        cells[name] = cell
            else:
                self._statement(word)
        return (arguments or ["unnamed"])[0], cells

    def _cell(self, name: str) -> Cell | None:
        area: float | None = None
        capacitance: dict[str, float] = {}
        functions: dict[str, Expression] = {}
        usable, sequential = not _NOT_LOGIC.search(name), False
        while (word := self._next()) != "}":
            if word == "pin":
                pins = self._group(word)
                facts = self._facts()
                for pin in pins:
                    if facts.get("direction") == "input":
                        capacitance[pin] = self._number(facts.get("capacitance", "0"), f"{name}.{pin}")
                    elif "function" in facts:
                        functions[pin] = parse(facts["function"], f"{self.path}: {name}.{pin}")
                usable &= "three_state" not in facts
            elif word in _SEQUENTIAL:
                sequential = True
                self._statement(word)
            else:
                value = self._statement(word)
                if word == "area" and value:
                    area = self._number(value, name)
                usable &= not (word == "dont_use" and value == "true")
        if sequential or not functions or not capacitance or not _combinational(functions, capacitance):
            return None
        if area is None:
            self._fail(f"cell {name} has no area")
        return Cell(name, area, capacitance, functions, usable and len(functions) == 1)

    def _group(self, kind: str) -> list[str]:
        """The names of a group, which is entered."""
        names, is_group = self._arguments()
        if not (names and is_group):
            self._fail(f"a {kind} without a name or a body")
        return names

    def _facts(self) -> dict[str, str]:
        facts = {}
        while (word := self._next()) != "}":
            if value := self._statement(word):
                facts[word] = value
        return facts

    def _statement(self, name: str) -> str:
        """Read over the rest of the statement that begins with ``name``; the value, if it is a simple one."""
        follows = self._peek()
        if follows == "(":
            if self._arguments()[1]:
                self._skip()
            return ""
        if follows != ":":
            self._fail(f"`{name}` is followed by {follows!r}")
        self.at += 1
        value = []
        while self.at < len(self.tokens) and self.tokens[self.at] not in (";", "\n", "}"):
            value.append(self.tokens[self.at].strip('"'))
            self.at += 1
        return " ".join(value)

    def _arguments(self) -> tuple[list[str], bool]:
        """What stands in parentheses, and whether a group begins after it, which is then entered."""
        if self._next() != "(":
            self._fail("an opening parenthesis is missing")
        found = []
        while (word := self._next()) != ")":
            if word != ",":
                found.append(word.strip('"'))
        is_group = self.at < len(self.tokens) and self._peek() == "{"
        self.at += is_group
        return found, is_group

    def _skip(self) -> None:
        depth = 1
        while depth:
            word = self._next()
            depth += (word == "{") - (word == "}")

    def _peek(self) -> str:
        while self.at < len(self.tokens) and self.tokens[self.at] in ("\n", ";"):
            self.at += 1
        if self.at == len(self.tokens):
            self._fail("the file ends too early")
        return self.tokens[self.at]

    def _next(self) -> str:
        word = self._peek()
        self.at += 1
        return word

    def _number(self, text: str, where: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not 0 <= number < float("inf"):
            self._fail(f"{where}: {text!r} is no area or capacitance")
        return number

    def _fail(self, why: str) -> NoReturn:
        raise CheckpointError(
            f"{self.path}: not a Liberty file: {why}", hint="--liberty takes a standard-cell .lib file"
        )
