"""``halve inspect``: what is in a checkpoint."""

from pathlib import Path

import click

from halve.cli.parameter import json_option


@click.command()
@click.argument("path")
@click.option("--values", is_flag=True, help="Read every weight: outliers, use of codes, zeros, scales, entropy.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page that opens offline; reads.")
@click.option("--threads", type=click.IntRange(min=1), help="Worker threads. Default: one a processor.")
@json_option
def command(*, path: str, values: bool, html: Path | None, threads: int | None, as_json: bool) -> None:
    """Look into the checkpoint PATH (folder, GGUF file, URL, org/name): its scheme, layout and tensors.

    Without --values and --html no weight is read.

    \b
    halve inspect model
    halve inspect out --html inspect.html
    """
    from halve.cli.render import progress, show, show_table, size
    from halve.evaluate import inspection_page, page
    from halve.pipeline.inspect import inspect

    if html is not None:
        page.check(html)
    with progress("inspect:") as callback:
        found = inspect(path, values=values or html is not None, threads=threads, progress=callback)
    if html is not None:
        inspection_page.write(html, found)
        click.echo(f"page: {html}", err=True)
    title = f"{found.architecture}: {found.parameters / 1e6:,.1f} M parameters, {size(found.bytes)}, {found.detected}"
    if as_json or not found.measured:
        show(found, as_json=as_json, title=title, note=found.summary)
    else:
        show_table(*found.value_table(), title=title, note=found.summary)
