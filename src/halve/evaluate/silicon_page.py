"""The page on gates: area against quality in three panels, and the tables behind them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING

from halve.evaluate import page
from halve.evaluate.drawing import BLUE, VERMILION, html, styled, title
from halve.evaluate.labels import Point, sides
from halve.silicon.comparison import LITERATURE_NOTE, compare, literature
from halve.silicon.measurement import CAVEAT, Measurement
from halve.silicon.pareto import Choices, choices
from halve.silicon.quality import bits_per_number, sqnr
from halve.silicon.record import Record
from halve.silicon.samples import Samples

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_PANELS = (
    ("A rounding multiplier", ("multiplier",)),
    ("Multiply and accumulate", ("mac", "fixed_mac")),
    ("A tile of 16 products", ("dot16", "dot16_mx", "dot16_nvfp4")),
)
_MOST_DB = 100.0  # what is better is drawn there, and labelled
_PIXELS_A_BIT = 1.1
_PANEL = 480  # pixels
_SUFFIXES = {"dot16_mx": " mx", "dot16_nvfp4": " nv", "fixed_mac": " fixed"}


def write(path: str | Path, record: Record, samples: Samples) -> None:
    """Write the page. Raises UnsupportedError without plotly, OutputError for the place."""
    page.check(path)
    page.write(path, render(record, samples))


def render(record: Record, samples: Samples) -> str:
    """The page."""
    found = choices(record, samples)
    return page.render(
        "silicon.html.jinja",
        title="What a bit costs in gates",
        caveat=CAVEAT,
        data=samples.name,
        pictures={"area": html(_areas(record, samples, found), "area")},
        choices=found,
        comparison=compare(record.measurements, record.measurements),
        literature=literature(record),
        literature_note=LITERATURE_NOTE,
        made=record.made,
        vectors=record.vectors,
        mismatches=record.mismatches,
    )


def _areas(record: Record, samples: Samples, found: Choices) -> "Figure":
    from plotly.subplots import make_subplots  # noqa: PLC0415 - 5 MB of JavaScript come along

    figure: Figure = make_subplots(rows=len(_PANELS), vertical_spacing=0.07)
    # Where tiles crowd, those that others beat have no label; the pointer still tells what they are.
    beaten = {(c.unit, c.format) for c in found.choices if not c.best}
    for row, (words, units) in enumerate(_PANELS, start=1):
        title(figure, row, 1, f"<b>{words}</b>")
        shown = [m for m in record.measurements if m.unit in units and m.subnormals]
        _panel(figure, row, [_bubble(m, samples, named=(m.unit, m.format) not in beaten) for m in shown])
    figure.update_yaxes(title="SQNR, dB")
    figure.update_xaxes(title="NAND2 equivalents a product", row=len(_PANELS), col=1)
    return styled(figure, _PANEL * len(_PANELS))


@dataclass(frozen=True, slots=True)
class _Bubble:
    measured: Measurement
    area: float  # of a product
    sqnr: float
    bits: float
    named: bool

    @property
    def drawn(self) -> float:
        """SQNR, or the top of the picture."""
        return min(self.sqnr, _MOST_DB)

    @property
    def label(self) -> str:
        """The format, its scales, and what the picture cuts."""
        if not self.named:
            return ""
        name = self.measured.format.split("_")[-1] + _SUFFIXES.get(self.measured.unit, "")
        return name if self.sqnr == self.drawn else f"{name} ({self.sqnr:.0f} dB)"


def _bubble(m: Measurement, samples: Samples, *, named: bool) -> _Bubble:
    return _Bubble(m, m.area / m.design.products, sqnr(m.design, samples), bits_per_number(m.design), named)


def _panel(figure: "Figure", row: int, bubbles: Sequence[_Bubble]) -> None:
    low, high = log10(min(b.area for b in bubbles)), log10(max(b.area for b in bubbles))
    points = [Point((log10(b.area) - low) / (high - low or 1), b.drawn / _MOST_DB, b.label) for b in bubbles]
    margin = 0.06 * (high - low)
    integer = [b.measured.format.startswith("int") for b in bubbles]
    figure.add_scatter(
        row=row,
        col=1,
        x=[b.area for b in bubbles],
        y=[b.drawn for b in bubbles],
        mode="markers+text",
        text=[b.label for b in bubbles],
        textposition=sides(points),
        textfont={"size": 10},
        marker={
            "size": [6 + _PIXELS_A_BIT * b.bits for b in bubbles],
            "color": [VERMILION if whole else BLUE for whole in integer],
            "symbol": ["diamond" if whole else "circle" for whole in integer],
            "opacity": 0.7,
        },
        customdata=[[b.measured.unit, b.measured.format, b.bits, b.sqnr] for b in bubbles],
        hovertemplate="<b>%{customdata[1]}</b>, %{customdata[0]}<br>%{x:.0f} NAND2 a product, %{customdata[3]:.1f} dB"
        "<br>%{customdata[2]:.2f} bits in memory<extra></extra>",
        showlegend=False,
    )
    figure.update_xaxes(type="log", range=[low - margin, high + 2 * margin], row=row, col=1)
