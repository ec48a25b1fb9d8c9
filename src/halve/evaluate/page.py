"""A page: one HTML file that opens anywhere and loads nothing. What is put into it is escaped."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

import halve
from halve.errors import OutputError
from halve.evaluate import drawing


def check(path: str | Path) -> None:
    """Raise, before any long work, what `write` would: UnsupportedError without plotly, OutputError for the place."""
    drawing.require()
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path} is a folder", hint="name the HTML file")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}", hint="make it first, or choose another place")


def render(template: str, **content: Any) -> str:
    """The page that ``template`` of this package makes of ``content``."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(version=halve.__version__, library=drawing.library(), **content)


def write(path: str | Path, content: str) -> None:
    """Write a page. Raises OutputError where the file cannot be written."""
    try:
        Path(path).write_text(content, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}", hint="choose another place") from None


def _source(template: str) -> str:
    return files("halve.evaluate").joinpath(template).read_text("utf-8")
