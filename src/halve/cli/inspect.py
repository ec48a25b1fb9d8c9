"""``halve inspect``: the tensors of a checkpoint, and how they are stored."""

import click

from halve.cli.parameter import json_option


@click.command()
@click.argument("path")
@json_option
def command(*, path: str, as_json: bool) -> None:
    """List the tensors of the checkpoint PATH (folder, GGUF file, org/name), without reading any weight."""
    from halve.cli.render import show, size
    from halve.pipeline.inspect import inspect

    found = inspect(path)
    stored = f"{found.layout}, {found.element}" if found.element else "not quantized"
    title = f"{found.architecture}: {found.parameters / 1e6:,.1f} M parameters, {size(found.bytes)}, {stored}"
    show(found, as_json=as_json, title=title, note=f"{found.bpw:.2f} bits per weight over the whole model")
