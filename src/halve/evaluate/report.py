"""A report: one HTML file that opens anywhere, without a network."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import jinja2

import halve
from halve.errors import OutputError
from halve.evaluate import charts
from halve.evaluate.evaluation import Evaluation

TEMPLATE = "report.html.jinja"


def check(path: str | Path) -> None:
    """Raise, before any long work, what `write` would: UnsupportedError without plotly, OutputError for the place."""
    charts.require()
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path} is a folder", hint="name the HTML file")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}", hint="make it first, or choose another place")


def write(path: str | Path, evaluations: Sequence[Evaluation], *, title: str = "") -> None:
    """Write what was measured of one or many checkpoints, on the same texts, to the HTML file ``path``.

    Raises UnsupportedError where plotly is missing, OutputError where the file cannot be written.
    """
    check(path)
    content = render(evaluations, title=title)
    try:
        Path(path).write_text(content, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}", hint="choose another place") from None


def render(evaluations: Sequence[Evaluation], *, title: str = "") -> str:
    """The page. What comes from checkpoints, texts and paths is escaped, and the page may load nothing."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(files("halve.evaluate").joinpath(TEMPLATE).read_text("utf-8"))
    return template.render(
        title=title or f"What {_list([e.label for e in evaluations])} cost{'s' * (len(evaluations) == 1)}",
        version=halve.__version__,
        evaluations=evaluations,
        first=evaluations[0],
        pictures=charts.pictures(evaluations),
        library=charts.library(),
    )


def _list(words: Sequence[str]) -> str:
    if len(words) > 3:
        return f"{len(words)} precisions"
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
