"""The tables of the reference pages, as Markdown, from the tables that the program itself uses."""

from collections.abc import Iterable, Iterator

import click

from halve import errors, hardware, layouts
from halve.cli.main import cli
from halve.evaluate import compatibility
from halve.formats import info
from halve.hardware.overview import overview
from halve.schemes import SCHEMES

ENVIRONMENT = {
    "HALVE_API_KEY": "What clients of `halve serve` and `halve web` must send; `--api-key` by another way.",
    "HALVE_CACHE": "Where downloaded models lie; default `$XDG_CACHE_HOME/halve`, or `~/.cache/halve`.",
    "HALVE_DEBUG": "1: errors come with a traceback.",
    "HALVE_ISA": "The newest instruction set to use: `scalar`, `avx2` or `avx512`. To find mistakes, and for tests.",
    "HALVE_REQUIRE_NATIVE": "1: neither installing nor importing halve without its native module is accepted.",
    "HALVE_FUZZ": "How many times as many cases the fuzz tests try.",
}


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown."""
    names = list(heads)
    cells = [names, ["---"] * len(names), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _cell(value: object) -> str:
    return "-" if value in (None, "") else str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def sections(names: Iterable[str], described: Iterable[str]) -> str:
    """A heading for each name, and what is said of it."""
    return "\n\n".join(f"## {name}\n\n{text}" for name, text in zip(names, described, strict=True))


def subclasses(of: type[errors.HalveError]) -> Iterator[type[errors.HalveError]]:
    """All of them, depth first."""
    for one in of.__subclasses__():
        yield one
        yield from subclasses(one)


def commands(command: click.Command = cli, name: str = "halve", within: click.Context | None = None) -> str:
    """A section for each command, with what `--help` prints."""
    context = click.Context(command, parent=within, info_name=name, **command.context_settings)
    found = f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```"
    if not isinstance(command, click.Group):
        return found
    each = ((word, command.get_command(context, word)) for word in command.list_commands(context))
    return "\n\n".join([found, *(commands(one, word, context) for word, one in each if one is not None)])


def formats_table() -> str:
    """Number formats."""
    found = info.describe_all()
    return table(found.columns, found.rows())


def schemes_table() -> str:
    """Schemes."""
    found = compatibility.describe_all()
    return table(found.columns, found.rows())


def schemes_in_full() -> str:
    """A section for each scheme: what each layout makes of it, and who loads that."""
    tables = (table(("", ""), compatibility.describe(name).rows()) for name in SCHEMES)
    return sections(SCHEMES, tables)


def layouts_table() -> str:
    """Layouts, and the schemes that each holds."""
    held = {
        name: [s.name for s in SCHEMES.values() if not layout.supports(s).refused]
        for name, layout in layouts.layouts().items()
    }
    return table(("layout", "holds"), ((f"`{name}`", ", ".join(found) or "read only") for name, found in held.items()))


def machines_table() -> str:
    """Machines."""
    found = overview()
    return f"{table(found.columns, found.rows())}\n\n{found.legend}"


def machines_in_full() -> str:
    """A section for each machine: every number with its source."""
    found = hardware.machines()
    return sections(found, (table(machine.columns, machine.rows()) for machine in found.values()))


def environment_table() -> str:
    """Environment variables."""
    return table(("name", "what it does"), ((f"`{name}`", about) for name, about in ENVIRONMENT.items()))


def errors_table() -> str:
    """Exceptions."""
    rows = ((f"`{one.__name__}`", one.exit_code, (one.__doc__ or "").strip()) for one in subclasses(errors.HalveError))
    return table(("error", "exit code", "means"), rows)
