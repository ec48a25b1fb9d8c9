"""A report: a page on what precisions cost."""

from collections.abc import Sequence
from pathlib import Path

from halve.evaluate import charts, page
from halve.evaluate.evaluation import Evaluation

check = page.check  # raises beforehand what `write` would


def write(path: str | Path, evaluations: Sequence[Evaluation], *, title: str = "") -> None:
    """Write what was measured of one or many checkpoints, on the same texts, to the HTML file ``path``.

    Raises UnsupportedError where plotly is missing, OutputError where the file cannot be written.
    """
    page.check(path)
    page.write(path, render(evaluations, title=title))


def render(evaluations: Sequence[Evaluation], *, title: str = "") -> str:
    """The page."""
    return page.render(
        "report.html.jinja",
        title=title or f"What {_list([e.label for e in evaluations])} cost{'s' * (len(evaluations) == 1)}",
        evaluations=evaluations,
        first=evaluations[0],
        pictures=charts.pictures(evaluations),
    )


def _list(words: Sequence[str]) -> str:
    if len(words) > 3:
        return f"{len(words)} precisions"
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
