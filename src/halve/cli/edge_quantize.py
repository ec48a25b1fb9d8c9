"""``halve edge quantize``: an INT8 ONNX model from a float one."""

from pathlib import Path

import click

from halve.cli.edge_inputs import needed, picture_options
from halve.cli.parameter import json_option

_CALIBRATORS = ("auto", "minmax", "percentile", "entropy", "mse")


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--calibration", type=click.Path(path_type=Path), required=True, help="Images or arrays: folder or file.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write.")
@click.option("--activations", type=click.Choice(["int8", "int16", "mixed"]), default="int8", show_default=True)
@click.option("--calibrator", type=click.Choice(_CALIBRATORS), default="auto", show_default=True, help="Their ranges.")
@click.option("--min-sqnr", type=float, help="Of mixed: dB to reach. Default: those of int16 less 3.")
@click.option("--metric", metavar="FILE.py:NAME", help="Of mixed: a function of yours to judge by instead of SQNR.")
@click.option("--min-metric", type=float, help="What that function must reach.")
@click.option(
    "--split-outputs", is_flag=True, help="Part outputs that join boxes and scores, which one scale destroys."
)
@picture_options
@click.option("--contrib", is_flag=True, help="16 bits in ONNX Runtime's own operators instead of operator set 21.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@json_option
def command(
    *,
    model: Path,
    calibration: Path,
    out: Path,
    activations: str,
    calibrator: str,
    min_sqnr: float | None,
    metric: str | None,
    min_metric: float | None,
    split_outputs: bool,
    size: tuple[int, int] | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    contrib: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Write the float ONNX MODEL with INT8 weights and INT8 or INT16 activations.

    With --activations mixed, as few get 16 bits as it takes: where 8 cost the outputs most for each multiplication.

    A third of the calibration inputs is kept aside; by them ranges, rounding and equalization are chosen.

    \b
    halve edge quantize net.onnx --calibration images/ --out net.int8.onnx --mean 123.7,116.3,103.5 --std 58.4,57.1,57.4
    halve edge quantize net.onnx --calibration inputs.npz --out net.int16.onnx --activations int16
    halve edge quantize net.onnx --calibration inputs.npz --out net.mixed.onnx --activations mixed --min-sqnr 30
    """
    if activations != "mixed" and (min_sqnr, metric, min_metric) != (None, None, None):
        raise click.UsageError("--min-sqnr, --metric and --min-metric are of --activations mixed")
    if (metric is None) != (min_metric is None) or (metric and min_sqnr is not None):
        raise click.UsageError("give either --min-sqnr, or --metric and --min-metric")
    from halve.checkpoint.onnx_source import require
    from halve.cli.render import counted, show

    require(str(model))
    with needed():
        from halve.edge.hybrid import Goal
        from halve.edge.metric import metric as metric_at
        from halve.edge.quantize import quantize
    from halve.edge.samples import Picture

    goal = None
    if activations == "mixed":
        goal = Goal(min_metric, metric_at(metric)) if metric else Goal(min_sqnr)
    with counted("%") as tell:
        found = quantize(
            model,
            out,
            calibration,
            activations="int16" if activations == "int16" else "int8",
            calibrator=calibrator,
            goal=goal,
            split_outputs=split_outputs,
            picture=Picture(size, mean, std),
            contrib=contrib,
            seed=seed,
            report=None if tell is None else lambda what, part: tell(what, round(100 * part), 100),
        )
    show(found, as_json=as_json, title=found.summary, note="dB: signal over error of each product's output")
