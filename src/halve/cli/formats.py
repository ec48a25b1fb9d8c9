"""``halve formats``: the table of number formats, one of them in full, and a model's memory in each."""

from typing import TYPE_CHECKING

import click

from halve.cli.parameter import FORMAT, MODEL, json_option

if TYPE_CHECKING:
    from halve.formats import info


@click.command()
@click.argument("name", required=False, type=FORMAT)
@click.option("--model", type=MODEL, help="The memory table: 7b, a published model, or a config.json.")
@click.option("--plot", is_flag=True, help="Draw the numbers on a linear and a logarithmic axis.")
@json_option
def command(*, name: str | None, model: str | None, plot: bool, as_json: bool) -> None:
    """List number formats; with NAME, one format and its values; with --model, what a model's weights take.

    \b
    halve formats                     fields, limits, special codes of every format
    halve formats fp8_e4m3            every value (of formats wider than 8 bits: the corners)
    halve formats fp4_e2m1 --plot     its number line
    halve formats --model 7b          the memory table
    """
    from halve.cli.render import show, show_json
    from halve.formats import info

    if model and (name or plot):
        raise click.UsageError("--model is a table of its own: leave out NAME and --plot")
    if model:
        _memory(model, as_json=as_json)
    elif name and as_json:
        show_json(info.describe(name))
    elif plot and not as_json:
        _plot(name)
    elif name:
        _one(info.describe(name))
    else:
        show(info.describe_all(), as_json=as_json)


def _memory(model: str, *, as_json: bool) -> None:
    from halve.cli.render import show
    from halve.models.footprint import KEPT, footprints
    from halve.models.published import find

    nominal, geometries = find(model)
    note = (
        f"Models: exact bytes with block scales; embeddings, head, norms in {KEPT} / embeddings and head quantized too."
        "\nfp32, bf16, fp16: everything cast. `halve quantize --dry-run` counts what a layout's files add."
    )
    show(footprints(nominal, geometries), as_json=as_json, title="Weights in GB (10^9 bytes)", note=note)


def _one(found: "info.FormatInfo") -> None:
    from halve.cli.render import show_table

    facts = ((key.replace("_", " "), fact) for key, fact in found.facts().items() if fact is not None)
    show_table(("fact", "value"), facts, heads=False)
    click.echo()
    show_table(found.columns, found.rows())


def _plot(name: str | None) -> None:
    from halve import formats
    from halve.cli import number_line
    from halve.cli.render import stdout

    width = min(stdout().width, 120)
    if name is None:
        lines = list(number_line.overview(list(formats.FORMATS.values()), width))
    else:
        fmt = formats.get(name)
        lines = [f"{name}, linear", *number_line.linear(fmt, width)]
        lines += ["", f"{name}, positive numbers, logarithmic", *number_line.logarithmic(fmt, width)]
        lines += ["", number_line.LEGEND]
    click.echo("\n".join(line.rstrip() for line in lines))
