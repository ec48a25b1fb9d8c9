"""What the commands of ``halve edge`` have in common: how inputs are given, and the extra that they need."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class Numbers(click.ParamType[tuple[float, ...]]):
    """Numbers with commas between them."""

    name = "numbers"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Parse."""
        if isinstance(value, tuple):
            return value
        try:
            found = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            found = ()
        if len(found) not in (1, 3):
            self.fail(f"{value!r} is neither one number nor three with commas", param, ctx)
        return found


class ImageSize(click.ParamType[tuple[int, int]]):
    """Height and width with an x between them."""

    name = "HxW"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Parse."""
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
            self.fail(f"{value!r} is no size, such as 224x224", param, ctx)
        return int(parts[0]), int(parts[1])


class InputShape(click.ParamType[tuple[str, tuple[int, ...]]]):
    """``NAME=1,3,640,640``: an input and its dimensions."""

    name = "NAME=DIMS"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        """Parse."""
        if isinstance(value, tuple):
            return value
        name, _, dims = str(value).rpartition("=")
        parts = dims.split(",")
        if not name or not all(part.isdecimal() and int(part) for part in parts):
            self.fail(f"{value!r} is no input and shape, such as images=1,3,640,640", param, ctx)
        return name, tuple(map(int, parts))


def picture_options(command: F) -> F:
    """The options that say how an image becomes an input: ``size``, ``mean`` and ``std``."""
    options = (
        click.option(
            "--size", type=ImageSize(), help="Height and width of images, such as 320x320. Default: the model's."
        ),
        click.option("--mean", type=Numbers(), default="0", show_default=True, help="Subtracted from RGB in 0 to 255."),
        click.option("--std", type=Numbers(), default="255", show_default=True, help="What that is divided by."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@contextmanager
def needed() -> Iterator[None]:
    """Raise UnsupportedError where what is imported inside is not installed."""
    try:
        yield
    except ImportError as error:
        from halve.errors import UnsupportedError

        raise UnsupportedError(f"{error.name} is not installed", hint="pip install 'halve[edge]'") from None
