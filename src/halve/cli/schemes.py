"""``halve schemes``: what weights and activations can become, and which layouts hold it."""

import click

from halve.cli.parameter import SCHEME, json_option


@click.command()
@click.argument("name", required=False, type=SCHEME)
@json_option
def command(*, name: str | None, as_json: bool) -> None:
    """List quantization schemes and the layouts that hold them; with NAME, all about one.

    bpw is bits per quantized weight, block scales included. Activations without an entry stay in 16 bits.
    """
    from halve.cli.render import show, show_json, show_table
    from halve.evaluate import compatibility

    if name is None:
        note = "~ with a loss: `halve schemes NAME` says which, why other layouts refuse it, and what engines load it"
        show(compatibility.describe_all(), as_json=as_json, note=note)
    elif as_json:
        show_json(compatibility.describe(name))
    else:
        one = compatibility.describe(name)
        show_table(one.columns, one.rows(), heads=False)
