"""Results on stdout: as tables for people, as JSON for programs. The only place that knows rich."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from halve.pipeline.progress import Progress, ProgressCallback

Cell = str | int | float | None
_NOTHING = "-"
_GAP = 2  # blanks between columns
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*(e[+-]\d+)?|inf|nan|2\^-?\d+)%?|-")


class Result(Protocol):
    """What every library call returns: it can become JSON."""

    def to_json(self) -> Any:
        """JSON-ready values."""
        ...


class Tabular(Result, Protocol):
    """A result with a table in it."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Heads of the columns."""
        ...

    def rows(self) -> Iterable[tuple[Cell, ...]]:
        """Cells; None is shown as a dash."""
        ...


def show(result: Tabular, *, as_json: bool, title: str = "", note: str = "") -> None:
    """Print ``result`` on stdout."""
    if as_json:
        show_json(result)
    else:
        show_table(result.columns, result.rows(), title=title, note=note)


def show_json(result: Result) -> None:
    """Print ``result`` as one JSON value on stdout."""
    click.echo(json.dumps(result.to_json(), indent=1, allow_nan=False))


def show_table(
    columns: Iterable[str], rows: Iterable[tuple[Cell, ...]], *, title: str = "", note: str = "", heads: bool = True
) -> None:
    """Print a table on stdout: numbers to the right, None as a dash.

    In a terminal cells wrap between words, and columns on the right that still do not fit are left out and named; in a
    pipe lines are as long as they are.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns, cells = list(columns), [[text_of(cell) for cell in row] for row in rows]
    texts = [[column * heads, *(line[index] for line in cells)] for index, column in enumerate(columns)]
    widths = _widths(texts, stdout().width)
    table = Table(
        box=box.SIMPLE_HEAD if heads else None, show_header=heads, show_edge=False, padding=(0, 1 if heads else 2, 0, 0)
    )
    for column, shown, width in zip(columns, texts, widths, strict=False):
        numeric = all(map(_NUMBER.fullmatch, shown[1:])) and set(shown[1:]) != {_NOTHING}
        table.add_column(column, justify="right" if numeric else "left", overflow="fold", width=width)
    for line in cells:
        table.add_row(*(Text(cell) for cell in line[: len(widths)]))
    if left_out := columns[len(widths) :]:
        note = f"Too narrow for: {', '.join(left_out)}. They are in --json, in a pipe, and in a wider terminal.\n{note}"
    parts = [Text(title, "bold")] * bool(title) + [table] * bool(cells) + [Text(note.strip(), "dim")] * bool(note)
    show_parts(*parts)


def _widths(texts: list[list[str]], available: int) -> list[int]:
    """Widths of the columns, from the left, that fit: as wide as their cells, or narrower but never within a word."""
    least = [max(len(word) for text in column for word in text.split(" ")) for column in texts]
    while len(least) > 2 and sum(least) + _GAP * len(least) > available:
        least.pop()
    widths = [max(map(len, column)) for column in texts[: len(least)]]
    while sum(widths) + _GAP * len(widths) > available and widths != least:
        widest = max((width, index) for index, width in enumerate(widths) if width > least[index])[1]
        widths[widest] -= 1
    return widths


def show_parts(*parts: "RenderableType") -> None:
    """Print what rich can draw on stdout, without idle blanks at the ends of lines."""
    console = stdout()
    with console.capture() as drawn:
        console.print(*parts, sep="\n")
    for line in drawn.get().splitlines():
        click.echo(line.rstrip())


def text_of(cell: Cell) -> str:
    """``cell`` as a table shows it."""
    match cell:
        case None:
            return _NOTHING
        case bool():
            return "yes" if cell else "no"
        case float():
            return f"{cell:.6g}"
        case _:
            return str(cell)


def size(nbytes: float) -> str:
    """A number of bytes in decimal units.

    >>> size(1_234_567_890), size(93e6), size(17)
    ('1.23 GB', '93.0 MB', '17 B')
    """
    for unit, factor, digits in (("TB", 1e12, 2), ("GB", 1e9, 2), ("MB", 1e6, 1), ("kB", 1e3, 1)):
        if nbytes >= factor:
            return f"{nbytes / factor:.{digits}f} {unit}"
    return f"{nbytes:.0f} B"


def stdout() -> "Console":
    """A console on stdout. rich honours NO_COLOR; a pipe gets lines of any width instead of wrapped ones."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=1000)


def stderr() -> "Console":
    """A console on stderr, for progress and announcements."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@contextmanager
def progress(action: str) -> Iterator["ProgressCallback | None"]:
    """A callback for the ``progress=`` of a job, drawn on stderr with rate and time left; None where nobody watches."""
    console = stderr()
    if not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    figures = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    tensor = TextColumn("{task.fields[tensor]}", markup=False)  # last, so that long names do not push the bar about
    with Bar(TextColumn("{task.description}"), *figures, tensor, console=console, transient=True) as bar:
        task = bar.add_task(action, total=None, tensor="")

        def update(state: "Progress") -> None:
            bar.update(task, completed=state.done, total=state.total, tensor=state.tensor)

        yield update


@contextmanager
def counted(unit: str) -> Iterator[Callable[[str, int, int], object] | None]:
    """A callback (action, done, total) that keeps one line on stderr, erased in the end; None where nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    again = "\r\x1b[K"
    try:
        yield lambda action, done, total: click.echo(f"{again}{action}: {done} of {total} {unit}", nl=False, err=True)
    finally:
        click.echo(again, nl=False, err=True)
