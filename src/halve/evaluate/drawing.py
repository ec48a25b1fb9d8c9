"""How the pictures of pages are drawn: plotly, colours, axes, heat maps. Nothing here knows a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from math import isfinite
from typing import TYPE_CHECKING, Any

from halve.errors import UnsupportedError
from halve.evaluate.depth import short

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Okabe & Ito's palette, which people with any kind of colour vision tell apart; markers differ in shape, too.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#8A8F98"
INK, SOFT, FAINT, PALE = "#1B1F24", "#555B63", "#E3E6EA", "#CFE3F1"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
ROW = 44  # pixels of a bar or a number line
_CELL = 26  # pixels of a row of a heat map


@dataclass(frozen=True, slots=True)
class Cell:
    """One field of a heat map: what colours it (None: nothing), and what is said under the pointer."""

    value: float | None
    words: str


def require() -> None:
    """Raise UnsupportedError where plotly is not installed."""
    try:
        import plotly  # noqa: F401, PLC0415 - 5 MB of JavaScript come along
    except ImportError:
        raise UnsupportedError(
            "reports are drawn by plotly, which is not installed", hint="pip install 'halve[report]'"
        ) from None


def library() -> str:
    """JavaScript that draws the pictures in the reader's browser."""
    from plotly.offline import get_plotlyjs  # noqa: PLC0415

    return str(get_plotlyjs())


def html(figure: "Figure", name: str) -> str:
    """``figure`` as an element of a page that has :func:`library`; equal figures give equal bytes."""
    config = {"displayModeBar": False, "responsive": True}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=config))


def heat(figure: "Figure", row: int, col: int, cells: Mapping[tuple[str, int], Cell], said: str) -> None:
    """A heat map of ``cells`` by kind of layer and depth. Under the pointer: words and ``said``, plotly's template."""
    names = short(kind for kind, _ in cells)
    depth = sorted({number for _, number in cells})
    nothing = Cell(None, "")
    lines = [[cells.get((kind, number), nothing) for number in depth] for kind in names]
    figure.add_heatmap(
        row=row,
        col=col,
        x=depth,
        y=[escape(name) for name in names.values()],
        z=[[c.value if c.value is not None and isfinite(c.value) else None for c in line] for line in lines],
        customdata=[[escape(c.words) for c in line] for line in lines],
        hovertemplate=f"%{{customdata}}<br>{said}<extra></extra>",
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
    )


def heat_height(kinds: int) -> int:
    """Pixels of a picture of one heat map with so many rows."""
    return _CELL * kinds + 100


def title(figure: "Figure", row: int, col: int, text: str) -> None:
    """A heading above the left end of a panel."""
    place = {"x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom", "yshift": 6}
    note(figure, row, col, text, {**place, "font": {"size": 14, "color": INK}})


def note(figure: "Figure", row: int, col: int, text: str, place: dict[str, Any]) -> None:
    """Words at a place in a panel, 0 to 1 from its lower left corner."""
    style = {"showarrow": False, "font": {"size": 12, "color": SOFT}, "align": "left"}
    figure.add_annotation(text=text, row=row, col=col, xref="x domain", yref="y domain", **style | place)


def styled(figure: "Figure", height: int, *, grid: bool = True) -> "Figure":
    """``figure`` in the looks that all pictures share, ``height`` pixels high."""
    words = {"font": {"size": 13, "color": SOFT}, "standoff": 8}
    axis = {"linecolor": GREY, "ticks": "outside", "tickcolor": GREY, "gridcolor": FAINT, "title": words}
    figure.update_xaxes(automargin=True, showgrid=grid, **axis)
    figure.update_yaxes(automargin=True, zeroline=False, **axis | ({} if grid else {"showgrid": False}))
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 20, "r": 20, "t": 36, "b": 20},
        font={"family": _FONT, "size": 13, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        hoverlabel={"bgcolor": "white", "font": {"color": INK}, "align": "left"},
    )
    return figure
