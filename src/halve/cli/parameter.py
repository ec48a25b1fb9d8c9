"""Parameter types: names from our tables, sizes in bytes; and the ``--json`` option."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from halve.errors import UnknownNameError

_UNITS = {"": 1} | {f"{p}{i}b": (1024 if i else 1000) ** (k + 1) for k, p in enumerate("kmgt") for i in ("", "i")}

ACTIVATIONS = ("exact", "bf16", "int8")  # halve.runtime.packed.kernels, without numpy
LOCAL = ("127.0.0.1", "::1", "localhost")  # hosts that nobody else can reach

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


class Name(click.ParamType):  # type: ignore[type-arg] # generic since click 8.4 only
    """A name out of a table, in any case; the shell completes it, and a wrong one is told its near matches."""

    def __init__(self, kind: str, names: Callable[[], Iterable[str]]) -> None:
        self.name = kind
        self.names = names

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name as the table spells it. Raises UnknownNameError."""
        del param, ctx
        names = {name.lower(): name for name in self.names()}
        try:
            return names[str(value).lower()]
        except KeyError:
            raise UnknownNameError(self.name, str(value), list(names.values())) from None

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names that begin so."""
        del ctx, param
        return [CompletionItem(name) for name in self.names() if name.startswith(incomplete.lower())]


class NameOrPath(Name):
    """A name out of a table, or the path of a file."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name as the table spells it; a path as it is. Raises UnknownNameError for what is neither."""
        try:
            return super().convert(value, param, ctx)
        except UnknownNameError:
            if Path(value).exists() or Path(value).suffix == ".json":
                return str(value)
            raise

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names that begin so, and files."""
        return [*super().shell_complete(ctx, param, incomplete), CompletionItem(incomplete, type="file")]


class Override(click.ParamType):  # type: ignore[type-arg]
    """``NAME=SCHEME``: a tensor, module or ``re:`` pattern, and what it becomes."""

    name = "override"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """The pair. Raises UnknownNameError for an unknown scheme."""
        if isinstance(value, tuple):
            return value
        pattern, equals, scheme = str(value).rpartition("=")
        if not (pattern and equals):
            self.fail(f"{value!r} is not NAME=SCHEME, such as re:.*down_proj=fp8_dynamic", param, ctx)
        return pattern, SCHEME.convert(scheme, param, ctx)


class Size(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes: ``1500000``, ``8GB`` (10^9), ``8GiB`` (2^30)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(value).lower())
        unit = found[2].removesuffix("b") + "b" if found and found[2] not in ("", "b") else ""
        if not found or unit not in _UNITS:
            self.fail(f"{value!r} is not a size: write 1500000, 8GB or 8GiB", param, ctx)
        size = int(float(found[1]) * _UNITS[unit])
        if size < 1:
            self.fail(f"{value!r} is less than a byte", param, ctx)
        return size


class Duration(click.ParamType):  # type: ignore[type-arg]
    """Seconds: ``2s``, ``50ms``, ``1.5``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|ms|)\s*", str(value).lower())
        if not found or not float(found[1]):
            self.fail(f"{value!r} is not a time: write 2s or 50ms", param, ctx)
        return float(found[1]) * (1e-3 if found[2] == "ms" else 1)


class Tokens(click.ParamType):  # type: ignore[type-arg]
    """A number of tokens: ``1024``, ``32k`` (32 x 1024)."""

    name = "tokens"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Tokens."""
        found = re.fullmatch(r"\s*(\d+)(k|m|)\s*", str(value).lower())
        if not found or not int(found[1]):
            self.fail(f"{value!r} is not a number of tokens: write 4096 or 32k", param, ctx)
        return int(found[1]) * {"": 1, "k": 1024, "m": 1 << 20}[found[2]]


class Counts(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers above zero between commas: ``1,2,4``."""

    name = "counts"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The numbers."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if not all(re.fullmatch(r"\s*0*[1-9]\d{0,5}\s*", part) for part in parts):
            self.fail(f"{value!r} is no list of numbers: write 1,2", param, ctx)
        return tuple(map(int, parts))


def _formats() -> Iterable[str]:
    from halve.formats import FORMATS

    return FORMATS


def _schemes() -> Iterable[str]:
    from halve.schemes import SCHEMES

    return SCHEMES


def _layouts() -> Iterable[str]:
    from halve.layouts import layouts

    return layouts()


def _algorithms() -> Iterable[str]:
    from halve.algorithms import algorithms

    return (*algorithms(), "auto")


def _transforms() -> Iterable[str]:
    from halve.transforms import TRANSFORMS

    return (*TRANSFORMS, "none")


def _tools() -> Iterable[str]:
    from halve.schemes.conform import TOOLS

    return TOOLS


def _models() -> Iterable[str]:
    from halve.models.published import models

    return models()


def _machines() -> Iterable[str]:
    from halve.hardware import machines

    return ("this", *(n for machine in machines().values() for n in (machine.name, *machine.aliases)))


def _npus() -> Iterable[str]:
    from halve.edge.targets import targets

    return [name.lower() for name in targets()]


def _silicon_units() -> Iterable[str]:
    from halve.silicon.unit import UNITS

    return UNITS


FORMAT = Name("format", _formats)
SCHEME = Name("scheme", _schemes)
ALGORITHM = Name("algorithm", _algorithms)
TRANSFORM = Name("transform", _transforms)
TOOL = Name("tool", _tools)
MODEL = NameOrPath("model", _models)
LAYOUT = Name("layout", _layouts)
MACHINE = Name("machine", _machines)
NPU = Name("target", _npus)
SILICON_UNIT = Name("unit", _silicon_units)
DURATION = Duration()
TOKENS = Tokens()
