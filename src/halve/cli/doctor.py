"""``halve doctor``: this machine, as far as it matters here."""

import click

from halve.cli.parameter import json_option


@click.command()
@json_option
def command(*, as_json: bool) -> None:
    """Report whether native kernels are in use, and on what they run.

    The first line says it in a sentence. The memory's read rate is measured anew, in less than a second.
    """
    from halve.cli.render import show_json, show_table
    from halve.evaluate import machine
    from halve.pipeline.cache import cache_path

    if not as_json:
        click.echo(machine.kernels_sentence())
    report = machine.examine(cache_path())
    if as_json:
        show_json(report)
    else:
        show_table(report.columns, report.rows(), heads=False)
