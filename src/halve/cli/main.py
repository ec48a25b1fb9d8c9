"""The ``halve`` program: a group of commands that are imported only when they run."""

import signal
import sys
from importlib import import_module
from types import FrameType
from typing import Any

import click
from click.shell_completion import CompletionItem

import halve
from halve.cli.failure import Terminated, failure

# Command -> what it does in a line. `halve.cli.NAME` holds it as `command`. Help and completion need nothing but this.
COMMANDS = {
    "demo": "The whole story on a small model: quantize, verify, compare",
    "quantize": "Write a quantized copy of a checkpoint",
    "calibrate": "Gather statistics of a model's activations for better quantization",
    "convert": "Change the layout of a quantized checkpoint, keeping its codes",
    "verify": "Prove a quantized checkpoint whole and in range",
    "eval": "Measure perplexity, divergence and the loss of each layer",
    "inspect": "List the tensors of a checkpoint, and how they are quantized",
    "run": "Talk to a model in the terminal",
    "serve": "Serve models over HTTP, as OpenAI's API",
    "web": "Look at formats, plans and reports in the browser, and talk",
    "bench": "Time reading and writing, beside what the memory could give",
    "edge": "Bring ONNX models to the integers of small processors",
    "plan": "Say which machines serve or train a model, how fast, at what cost",
    "hardware": "List machines, what they multiply, and the source of every number",
    "silicon": "Measure what a number format costs in gates",
    "schemes": "List quantization schemes and the layouts that hold them",
    "formats": "List number formats, the values of one, a model's memory in each",
    "cast": "Cast numbers to a format and show the bits and the error",
    "doctor": "Report native kernels, processor, memory bandwidth and extras",
    "cache": "List or clear what halve has downloaded",
    "completion": "Print the script that completes halve commands in a shell",
}


class Shell(click.Group):
    """Commands by name, imported when they are called; one way to end for every error."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table: the order in which a new user meets them."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import ``halve.cli.cmd_name``."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = import_module(f"halve.cli.{cmd_name}").command
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Raise UnknownNameError for what is no command."""
        from halve.errors import UnknownNameError

        if args[0] not in COMMANDS and not ctx.resilient_parsing and not args[0].startswith("-"):
            raise UnknownNameError("command", args[0], list(COMMANDS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """From the table."""
        names = [CompletionItem(name, help=about) for name, about in COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and flush, so that a closed pipe is noticed while click can still end quietly."""
        try:
            return super().invoke(ctx)
        finally:
            sys.stdout.flush()

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run and exit: 0 done, 1 failed, 2 wrong request, 130 interrupted, 143 terminated. Never with a traceback."""
        try:
            code = super().main(*args, **kwargs | {"standalone_mode": False})
        except Exception as error:  # noqa: BLE001 - this is the border: whatever went wrong becomes a message
            code = failure(error)
        sys.exit(code if isinstance(code, int) else 0)


@click.group("halve", cls=Shell, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(halve.__version__, message="halve %(version)s")
@click.option("--log", type=click.Path(dir_okay=False, writable=True), help="Append what the library logs to a file.")
@click.pass_context
def cli(ctx: click.Context, log: str | None) -> None:
    """Low-precision numbers for deep learning: formats, quantization, and the proof.

    \b
    halve demo                                   the whole story in two minutes
    halve quantize SRC OUT --scheme nvfp4a16     a checkpoint that vLLM loads
    halve cast 0.1 --to fp8_e4m3                 the bits of a number
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
    if log:
        import logging

        handler = logging.FileHandler(log)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logging.getLogger("halve").addHandler(handler)
        logging.getLogger("halve").setLevel(logging.INFO)


def _terminate(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise Terminated


def run() -> None:
    """Entry point of the ``halve`` program."""
    signal.signal(signal.SIGTERM, _terminate)
    cli.main(prog_name="halve")
