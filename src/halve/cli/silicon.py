"""``halve silicon``: what a number format costs in gates."""

from pathlib import Path

import click

from halve.cli.parameter import SILICON_UNIT, json_option

_DATA = "Operands: `gaussian`, `heavy`, a .npy file or a checkpoint."
_UNITS = ("multiplier", "mac", "dot16")  # what is measured where nothing else is asked for

subnormals_option = click.option("--no-subnormals", is_flag=True, help="Subnormal numbers count as zero.")
data_option = click.option("--data", default="gaussian", show_default=True, help=_DATA)


class _OfUnits(click.Command):
    """A command whose help lists the units."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table."""
        from halve.silicon.unit import UNITS

        del ctx
        with formatter.section("Units"):
            formatter.write_dl([(name, shape.about) for name, shape in UNITS.items()])


@click.group(invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Measure what a number format costs in gates.

    \b
    halve silicon table                            what has been measured, beside the rule of thumb
    halve silicon table --quality                  which format would you build
    halve silicon measure e3m4                     a format of your own: needs pip install 'halve[silicon]'
    halve silicon verilog fp8_e4m3 --unit mac      the circuit
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@command.command(cls=_OfUnits)
@click.argument("formats", nargs=-1, required=True, metavar="FORMAT...")
@click.option("--unit", "units", type=SILICON_UNIT, multiple=True, help=f"Repeatable. Default: {', '.join(_UNITS)}.")
@click.option("--liberty", type=click.Path(path_type=Path), help="A standard-cell library instead of halve's own.")
@subnormals_option
@data_option
@json_option
def measure(
    *,
    formats: tuple[str, ...],
    units: tuple[str, ...],
    liberty: Path | None,
    no_subnormals: bool,
    data: str,
    as_json: bool,
) -> None:
    """Make gates of units for FORMAT, prove and measure them.

    FORMAT is a name of `halve formats`, eXmY for X exponent and Y mantissa bits, or intN.
    """
    from halve.cli.render import show
    from halve.silicon import comparison, measurement, record, unit
    from halve.silicon import liberty as library

    designs = [unit.unit(u, fmt, subnormals=not no_subnormals) for u in units or _UNITS for fmt in formats]
    cells = library.own() if liberty is None else library.read(liberty)
    measured = measurement.measure_all(designs, cells, data=data)
    bases = [*(record.packaged().measurements if liberty is None else ()), *measured]  # what is new comes last and wins
    found = comparison.compare(measured, bases)
    show(found, as_json=as_json, note=found.note)


@command.command(cls=_OfUnits)
@click.argument("format_", metavar="FORMAT")
@click.option("--unit", "unit_name", type=SILICON_UNIT, default="multiplier", show_default=True, help="What to build.")
@subnormals_option
def verilog(*, format_: str, unit_name: str, no_subnormals: bool) -> None:
    """Print the Verilog of a unit for FORMAT."""
    from halve.silicon import generate, unit

    click.echo(generate.verilog(unit.unit(unit_name, format_, subnormals=not no_subnormals)), nl=False)


@command.command()
@click.option("--unit", "units", type=SILICON_UNIT, multiple=True, help="Only these; repeatable.")
@click.option("--quality", is_flag=True, help="Instead: what tiles keep of --data, for their area.")
@data_option
@json_option
def table(*, units: tuple[str, ...], quality: bool, data: str, as_json: bool) -> None:
    """List what was measured, beside what others say."""
    from halve.cli.render import show
    from halve.silicon import comparison, pareto, record, samples

    packaged = record.packaged()
    if quality:
        choices = pareto.choices(packaged, samples.load(data))
        show(choices, as_json=as_json, note=choices.note)
        return
    shown = [m for m in packaged.measurements if not units or m.unit in units]
    found = comparison.compare(shown, packaged.measurements)
    show(found, as_json=as_json, note=found.note)
    if not as_json:
        click.echo()
        show(comparison.literature(packaged), as_json=False, title="Published figures", note=comparison.LITERATURE_NOTE)


@command.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@data_option
def plot(*, out: Path, data: str) -> None:
    """Write a page: area against SQNR, bits as the bubble.

    Panels for multipliers, multiply-accumulates and tiles; the tables below. OUT is an HTML file.
    """
    from halve.evaluate import page, silicon_page
    from halve.silicon import record, samples

    page.check(out)
    silicon_page.write(out, record.packaged(), samples.load(data))
    click.echo(f"page: {out}", err=True)
