"""``halve edge export``: a file for Rockchip's NPUs."""

from pathlib import Path

import click

from halve.cli.edge_inputs import needed, picture_options
from halve.cli.parameter import json_option

_TARGETS = ("rk3588", "rk3576", "rk3568", "rk3566", "rk3562")


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--source", type=click.Path(path_type=Path), required=True, help="The float model that it was made of.")
@click.option("--calibration", type=click.Path(path_type=Path), required=True, help="Images or arrays: folder or file.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write.")
@click.option("--to", type=click.Choice(["rknn"]), default="rknn", show_default=True, help="The kind of file.")
@click.option("--target", type=click.Choice(_TARGETS), default="rk3588", show_default=True)
@picture_options
@click.option("--accept-rknn-license", is_flag=True, help="Rockchip's toolkit is proprietary; it is installed apart.")
@json_option
def command(
    *,
    model: Path,
    source: Path,
    calibration: Path,
    out: Path,
    to: str,
    target: str,
    size: tuple[int, int] | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    accept_rknn_license: bool,
    as_json: bool,
) -> None:
    """Write MODEL, of `halve edge quantize`, as a .rknn file with the same ranges, and try it in the PC simulator.

    Rockchip's toolkit is installed into an environment of its own in the cache (2 GB, once) and runs in a process of
    its own.

    \b
    halve edge export net.int8.onnx --source net.onnx --calibration images/ --out net.rknn --accept-rknn-license
    """
    from halve.checkpoint.onnx_source import require
    from halve.cli.render import show, stderr

    del to
    require(str(model))
    with needed():
        from halve.edge.rknn.export import export
    from halve.edge.rknn.environment import TOOLKIT, environment
    from halve.edge.samples import Picture
    from halve.pipeline.cache import cache_dir

    with stderr().status(f"{TOOLKIT}: its environment, then the build"):
        python = environment(cache_dir() / TOOLKIT.replace("==", "-"), accepted=accept_rknn_license)
        found = export(model, source, out, calibration, target=target, python=python, picture=Picture(size, mean, std))
    for failure in found.failed:
        click.echo(f"warning: {failure}", err=True)
    show(
        found,
        as_json=as_json,
        title=found.summary,
        note="dB: signal over error of the outputs, the float model's being exact",
    )
