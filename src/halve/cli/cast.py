"""``halve cast``: numbers, the bits they become in a format, and what that costs."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from halve.cli.parameter import FORMAT, json_option

if TYPE_CHECKING:
    from halve.codecs.cast import CastNumber, CastResult

ROUNDINGS = ("nearest_even", "toward_zero", "away_from_zero", "stochastic")  # halve.codecs.rounding, without numpy


@click.command(context_settings={"ignore_unknown_options": True})  # so that -0.5 is a number
@click.argument("numbers", nargs=-1, required=True, metavar="NUMBER|FILE|-...")
@click.option("--to", "name", required=True, type=FORMAT, help="Format to cast to; `halve formats` lists them.")
@click.option("--rounding", type=click.Choice(ROUNDINGS), default=ROUNDINGS[0], show_default=True, help="How to round.")
@click.option("--saturate/--no-saturate", default=True, help="What is too large: the largest number, or Inf or NaN.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Makes stochastic rounding repeatable."
)
@json_option
@click.pass_context
def command(
    ctx: click.Context, *, numbers: tuple[str, ...], name: str, rounding: str, saturate: bool, seed: int, as_json: bool
) -> None:
    """Cast numbers to a format and show the code, the exact value, the error and both neighbours.

    A number is decimal, C hexadecimal (0x1.8p-3), nan or inf; a file, or - for stdin, holds numbers between blanks or
    commas.

    \b
    halve cast 0.1 --to fp8_e4m3
    halve cast -1e9 nan --to fp16 --no-saturate
    seq 0 0.25 8 | halve cast - --to fp4_e2m1 --json
    """
    from halve.cli.render import show, show_table
    from halve.codecs.cast import cast

    values = list(_values(ctx, numbers))
    result = cast(values, name, rounding=rounding, saturate=saturate, seed=seed)  # type: ignore[arg-type]
    if as_json or len(values) != 1:
        show(result, as_json=as_json, title=_title(result))
    else:
        show_table(("what", "value"), _details(next(result.numbers())), title=_title(result), heads=False)


def _title(result: "CastResult") -> str:
    seed = f" (seed {result.seed})" if result.rounding == "stochastic" else ""
    return f"{result.format.name}, {result.rounding}{seed}, {'saturating' if result.saturate else 'not saturating'}"


def _details(number: "CastNumber") -> Iterator[tuple[str, str]]:
    from halve.formats.info import exact, hex_float, short

    below, above = (None if x is None else short(x) for x in number.neighbours)
    yield "input", f"{number.input!r}   {hex_float(number.input)}"
    yield "code", f"{number.hex}   {number.fields}"
    yield "value", f"{exact(number.value)}   {hex_float(number.value)}"
    yield "error", f"{number.error:+.6g}   {number.relative_error:+.3%}   {number.ulps:+.4g} ulp"
    yield "neighbours", f"{below or 'none'} below   {above or 'none'} above"


def _values(ctx: click.Context, arguments: Iterable[str]) -> Iterator[float]:
    from halve import document

    for argument in arguments:
        if argument.startswith("--"):
            known = [option for parameter in ctx.command.params for option in parameter.opts + parameter.secondary_opts]
            raise click.NoSuchOption(argument, possibilities=_near(argument, known), ctx=ctx)
        if argument == "-":
            yield from _words("stdin", sys.stdin.read())
        elif (number := _number(argument)) is not None:
            yield number
        elif Path(argument).is_file():
            yield from _words(argument, document.text(Path(argument), document.CONFIG_LIMIT, errors="replace"))
        else:
            raise click.BadParameter(f"{argument!r} is neither a number nor a file", ctx=ctx, param_hint="NUMBER")


def _words(where: str, text: str) -> Iterator[float]:
    for line, words in enumerate(text.replace(",", " ").splitlines(), 1):
        for word in words.split():
            if (number := _number(word)) is None:
                raise click.BadParameter(f"{where}, line {line}: {word[:40]!r} is not a number", param_hint="NUMBER")
            yield number


def _number(word: str) -> float | None:
    try:
        return float.fromhex(word) if "0x" in word.lower() else float(word)
    except (ValueError, OverflowError):
        return None


def _near(option: str, known: list[str]) -> list[str]:
    from difflib import get_close_matches

    return get_close_matches(option, known)
