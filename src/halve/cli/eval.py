"""``halve eval``: what a precision costs."""

from pathlib import Path

import click

from halve.cli.parameter import SCHEME, json_option


@click.command()
@click.argument("path")
@click.option(
    "--against", metavar="BASE", help="The model it was made from: adds KL divergence and every layer's loss."
)
@click.option("--text", "texts", metavar="FILE", multiple=True, help="UTF-8 text; repeatable. Default: Python's docs.")
@click.option("--windows", type=click.IntRange(min=1), default=32, show_default=True, help="Windows of each text.")
@click.option("--window", type=click.IntRange(min=8), default=512, show_default=True, help="Tokens of a window.")
@click.option("--activations", is_flag=True, help="Measure a second time with activations as the target rounds them.")
@click.option("--scheme", type=SCHEME, help="How it rounds them. Default: as halve.json in PATH says.")
@click.option("--kv", type=click.Choice(["fp8"]), help="In that second time also round keys and values.")
@click.option("--prompt", help="What to ask the model. Default with --html: a question; else nothing.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a report that opens offline.")
@json_option
def command(
    *,
    path: str,
    against: str | None,
    texts: tuple[str, ...],
    windows: int,
    window: int,
    activations: bool,
    scheme: str | None,
    kv: str | None,
    prompt: str | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Measure the perplexity of the checkpoint PATH, and with --against what it lost.

    The second half of each window is scored, in float32 on the reference path: right, not fast. With --against the
    result also goes into PATH's model card, if halve wrote one.

    \b
    halve eval out --against model
    halve eval out --against model --activations --kv fp8 --html report.html
    """
    from halve.cli.render import counted, show, show_table, size
    from halve.evaluate import report
    from halve.evaluate.evaluator import PROMPT, evaluate
    from halve.pipeline import card

    if html is not None:
        report.check(html)
    with counted("windows") as progress:
        result = evaluate(
            path,
            against=against,
            texts=texts,
            windows=windows,
            window=window,
            scheme=scheme,
            activations=activations,
            kv=kv,
            prompt=prompt or (PROMPT if html else None),
            progress=progress,
        )
    if html is not None:
        report.write(html, [result])
        click.echo(f"report: {html}", err=True)
    if against is not None and (updated := card.add_evaluation(Path(path), result)):
        click.echo(f"model card: {updated}", err=True)
    if as_json:
        show(result, as_json=True)
        return
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
