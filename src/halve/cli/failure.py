"""How a command that fails ends: ``error:`` and ``hint:`` on stderr, and an exit code."""

import os
import shlex
import sys
import traceback

import click

from halve.errors import RESUMABLE, HalveError

INTERRUPTED = 128 + 2  # what a shell reports for a program ended by SIGINT
TERMINATED = 128 + 15  # and by SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM: what a job's time limit, `kill`, or a machine that shuts down sends. Ends as Ctrl-C does."""


def failure(error: Exception) -> int:
    """Say on stderr what went wrong and what to do; return the exit code. HALVE_DEBUG=1 adds the traceback."""
    if os.environ.get("HALVE_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(error)
    if isinstance(error, click.Abort):
        match error.__context__:
            case Terminated():
                _say("terminated", hint=_resumption(error.__context__))
                return TERMINATED
            case KeyboardInterrupt():
                _say("interrupted", hint=_resumption(error.__context__))
                return INTERRUPTED
        _say("error: cancelled: nothing was done", hint="where nobody can answer, say --yes")
        return 1
    message, hint, code = _explain(error)
    _say(f"error: {message}", hint=hint)
    if resumption := _resumption(error):
        click.echo(resumption, err=True)
    return code


def _resumption(error: BaseException) -> str:
    """What to type to go on with a job that ``error`` has interrupted; empty where it cannot."""
    if RESUMABLE not in getattr(error, "__notes__", ()):
        return ""
    typed = ["halve", *sys.argv[1:]]
    again = shlex.join(typed if "--resume" in typed else [*typed, "--resume"])
    return f"{RESUMABLE}; to go on: {again}"


def _explain(error: Exception) -> tuple[str, str, int]:
    match error:
        case HalveError():
            return str(error), error.hint, error.exit_code
        case click.UsageError():
            path = error.ctx.command_path if error.ctx else "halve"
            return error.format_message(), f"`{path} --help` lists arguments and options", error.exit_code
        case click.ClickException():
            return error.format_message(), "", error.exit_code
        case MemoryError():
            return "out of memory", "use fewer --threads, or a machine with more memory", 1
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return f"{where}{error.strerror or error}", "", 1
        case _:
            return (
                f"internal error: {type(error).__name__}: {error}",
                "this is a fault of halve: please report it with what HALVE_DEBUG=1 prints",
                1,
            )


def _say(message: str, hint: str = "") -> None:
    colour = False if os.environ.get("NO_COLOR") else None  # https://no-color.org; None: only on a terminal
    word, colon, rest = message.partition(":")
    click.echo(click.style(word + colon, fg="red", bold=True) + rest, err=True, color=colour)
    if hint:
        click.echo(click.style("hint:", fg="cyan") + f" {hint}", err=True, color=colour)
