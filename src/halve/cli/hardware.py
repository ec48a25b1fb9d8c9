"""``halve hardware``: machines, what they multiply, and where every number comes from."""

import click

from halve.cli.parameter import MACHINE, json_option


@click.command()
@click.argument("name", required=False, type=MACHINE)
@click.option("--claims", is_flag=True, help="Statements in circulation that are loose, and what the sources say.")
@json_option
def command(*, name: str | None, claims: bool, as_json: bool) -> None:
    """List machines; with NAME (or `this`), every number of one with its source.

    \b
    halve hardware             memory, bandwidth, dense rates, formats
    halve hardware b300        every number and its source
    halve hardware --claims    what is often told wrong
    """
    from halve.cli.render import show
    from halve.hardware import find
    from halve.hardware.overview import overview
    from halve.hardware.this_machine import this_machine
    from halve.plan.claims import claims as all_claims

    if claims:
        show(all_claims(), as_json=as_json)
    elif name:
        machine = this_machine() if name == "this" else find(name)
        show(machine, as_json=as_json, title=machine.name)
    else:
        found = overview()
        show(found, as_json=as_json, note=f"{found.legend} `halve hardware --claims`: what is often told wrong.")
