"""``halve edge``: ONNX models in the integers of small processors."""

from importlib import import_module

import click

_COMMANDS = ("check", "quantize", "report", "export")  # each lies in halve.cli.edge_NAME


class _Edge(click.Group):
    """Commands that are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are used."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import it."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        found: click.Command = import_module(f"halve.cli.edge_{cmd_name}").command
        return found


@click.group(cls=_Edge)
def command() -> None:
    """Bring ONNX models to INT8 and INT16, for processors that have nothing else.

    \b
    halve edge check model.onnx --target rk3588
    halve edge quantize model.onnx --calibration images/ --out model.int8.onnx
    halve edge report model.int8.onnx --source model.onnx --inputs images/ --html report.html
    halve edge export model.int8.onnx --source model.onnx --calibration images/ --out model.rknn

    Needs pip install 'halve[edge]'.
    """
