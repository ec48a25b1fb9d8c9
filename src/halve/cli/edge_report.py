"""``halve edge report``: a float model and its integers side by side, in one HTML file."""

from pathlib import Path

import click

from halve.cli.edge_inputs import InputShape, needed, picture_options
from halve.cli.parameter import NPU, json_option

_INPUTS = 64


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--source", type=click.Path(path_type=Path), required=True, help="The float model that it was made of.")
@click.option("--inputs", type=click.Path(path_type=Path), required=True, help="Images or arrays: folder or file.")
@click.option("--html", "out", type=click.Path(path_type=Path), help="The page to write.")
@click.option("--target", type=NPU, help="Also say what leaves this NPU.")
@click.option("--shape", "shapes", type=InputShape(), multiple=True, help="Of an input whose size is open; repeatable.")
@picture_options
@json_option
def command(
    *,
    model: Path,
    source: Path,
    inputs: Path,
    out: Path | None,
    target: str | None,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    size: tuple[int, int] | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    as_json: bool,
) -> None:
    """Compare MODEL, of `halve edge quantize`, with the float model on inputs of yours.

    \b
    halve edge report net.int8.onnx --source net.onnx --inputs images/ --html report.html --target rk3588
    """
    from halve.checkpoint.onnx_source import require
    from halve.cli.render import show_json, show_table

    require(str(model))
    with needed():
        from halve.edge.beside import compare
    from halve.edge.assess import check
    from halve.edge.model import load
    from halve.edge.samples import Picture, read
    from halve.evaluate import edge_page, page

    if out is not None:
        page.check(out)
    exact = load(source)
    samples = read(inputs, exact, Picture(size, mean, std), limit=_INPUTS)
    given = dict(shapes) or {one.name: samples[0][one.name].shape for one in exact.inputs}
    placed = None if target is None else check(model, target, shapes=given)
    found = compare(source, model, samples, exact)
    if out is not None:
        edge_page.write(out, found, placed)
    if as_json:
        show_json(found)
        return
    same = "" if found.agreement is None else f", {100 * found.agreement:.1f} % of decisions the same"
    outputs = ", ".join(f"{name} {db:.1f} dB" for name, db in found.outputs)
    rows = [(name, operator, f"{db:.1f}") for name, operator, db in found.layers[:12]]
    title = f"{model} beside {source} on {len(samples)} inputs: {outputs}{same}"
    show_table(("product", "operator", "dB"), rows, title=title, note=f"{out} has the pictures" if out else "")
