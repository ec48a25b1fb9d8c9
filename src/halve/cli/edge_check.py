"""``halve edge check``: what becomes of an ONNX model on an NPU."""

from pathlib import Path

import click

from halve.cli.edge_inputs import InputShape
from halve.cli.parameter import NPU, json_option


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--target", type=NPU, required=True, help="rk3588, rk3576, rk3568 or rk3562.")
@click.option("--dtype", type=click.Choice(["int8", "int16", "fp16"]), default="int8", show_default=True)
@click.option("--shape", "shapes", type=InputShape(), multiple=True, help="Of an input whose size is open; repeatable.")
@click.option("--all", "everything", is_flag=True, help="Every layer, not only what leaves the NPU and the slowest.")
@json_option
def command(
    *,
    model: Path,
    target: str,
    dtype: str,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    everything: bool,
    as_json: bool,
) -> None:
    """Say where each layer of the ONNX MODEL runs on an NPU, and how fast the whole is.

    A float model is taken to run in --dtype; a quantized one says itself which layers do.

    \b
    halve edge check net.onnx --target rk3588
    halve edge check net.int8.onnx --target rk3568 --all
    halve edge check net.onnx --target rk3588 --dtype fp16 --shape images=1,3,640,640
    """
    from halve.checkpoint.onnx_source import require
    from halve.cli.render import show, show_table

    require(str(model))
    from halve.edge.assess import check

    types = {"int8": "INT8", "int16": "INT16", "fp16": "FP16"}
    found = check(model, target, dtype=types[dtype], shapes=dict(shapes))  # type: ignore[arg-type] # what the choice gives
    if as_json or everything:
        show(found, as_json=as_json, title=found.summary, note=found.note)
    else:
        show_table(found.columns, found.notable(), title=found.summary, note=found.note)
