"""``halve eval``: what a precision costs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from halve.cli.parameter import SCHEME, json_option

if TYPE_CHECKING:
    from halve.evaluate.evaluation import Evaluation
    from halve.runtime.packed.kernels import Mode


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option(
    "--against", metavar="BASE", help="The model it was made from: adds KL divergence and every layer's loss."
)
@click.option("--text", "texts", metavar="FILE", multiple=True, help="UTF-8 text; repeatable. Default: Python's docs.")
@click.option("--windows", type=click.IntRange(min=1), default=32, show_default=True, help="Windows of each text.")
@click.option("--window", type=click.IntRange(min=8), default=512, show_default=True, help="Tokens of a window.")
@click.option("--activations", is_flag=True, help="Measure a second time with activations as the target rounds them.")
@click.option("--scheme", type=SCHEME, help="How it rounds them. Default: as halve.json in PATH says.")
@click.option("--kv", type=click.Choice(["fp8"]), help="In that second time also round keys and values.")
@click.option(
    "--act",
    "packed",
    type=click.Choice(["exact", "bf16", "int8"]),
    multiple=True,
    help="Measure once more by the kernels of `halve run --act`; repeatable.",
)
@click.option("--prompt", help="What to ask the model. Default with --html: a question; else nothing.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a report that opens offline.")
@json_option
def command(
    *,
    paths: tuple[str, ...],
    against: str | None,
    texts: tuple[str, ...],
    windows: int,
    window: int,
    activations: bool,
    scheme: str | None,
    kv: str | None,
    packed: "tuple[Mode, ...]",
    prompt: str | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Measure the perplexity of the checkpoint PATH, and with --against what it lost.

    The second half of each window is scored, in float32 on the reference path: right, not fast. With --against the
    result also goes into PATH's model card, if halve wrote one. Of several PATHs the base is run once, and the report
    draws loss over size, with a line through those that are best for their size.

    \b
    halve eval out --against model
    halve eval out --against model --activations --kv fp8 --html report.html
    halve eval out --against model --act bf16 --act int8
    halve eval nvfp4 fp8 mixed-* --against model --html report.html
    """
    from halve.cli.render import counted, show_json
    from halve.evaluate import report
    from halve.evaluate.evaluator import PROMPT, Evaluator
    from halve.pipeline import card

    if html is not None:
        report.check(html)
    prompt = prompt or (PROMPT if html else None)
    several = len(paths) > 1
    with (
        counted("windows") as progress,
        Evaluator(against, texts=texts, windows=windows, window=window, keep=several, progress=progress) as evaluator,
    ):
        results = [
            evaluator.evaluate(path, scheme=scheme, activations=activations, kv=kv, packed=packed, prompt=prompt)
            for path in paths
        ]
    if html is not None:
        report.write(html, results)
        click.echo(f"report: {html}", err=True)
    for path, result in zip(paths, results, strict=True):
        if against is not None and (updated := card.add_evaluation(Path(path), result)):
            click.echo(f"model card: {updated}", err=True)
    if as_json:
        if several:
            click.echo(json.dumps([result.to_json() for result in results], indent=1, allow_nan=False))
        else:
            show_json(results[0])
        return
    for index, (path, result) in enumerate(zip(paths, results, strict=True)):
        click.echo("\n" * (index > 0), nl=False)
        _tell(path, result)


def _tell(path: str, result: "Evaluation") -> None:
    """Print tables."""
    from halve.cli.render import show, show_table, size

    bits = "" if result.bpw is None else f", {result.bpw:.2f} bits per weight"
    note = "\n".join(result.method)
    if result.layers:
        show(result, as_json=False, title=f"{path}: {result.label}, {size(result.bytes)}{bits}")
        click.echo()
        show_table(result.worst_columns, result.worst_rows(), note=note)
    else:
        show(result, as_json=False, title=f"{path}: {result.label}, {size(result.bytes)}{bits}", note=note)
    if result.sample is not None:
        click.echo(f"\n> {result.sample.prompt}\n{result.sample.text}")
