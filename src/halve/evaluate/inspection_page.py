"""The page on what was found in a checkpoint."""

from pathlib import Path

from halve.evaluate import inspection_charts, page
from halve.evaluate.inspection import Inspection


def write(path: str | Path, inspection: Inspection) -> None:
    """Write ``inspection``, made with its values, to the HTML file ``path``.

    Raises UnsupportedError where plotly is missing, OutputError where the file cannot be written.
    """
    page.check(path)
    page.write(path, render(inspection))


def render(inspection: Inspection) -> str:
    """The page."""
    return page.render(
        "inspection.html.jinja",
        title=f"What is in {inspection.path.resolve().name}",
        inspection=inspection,
        pictures=inspection_charts.pictures(inspection),
    )
