"""The pictures of an inspection: heat maps by layer, and the codes in use on the number line of their format."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, log10
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from halve import formats
from halve.codecs.reference import value_table
from halve.evaluate.depth import place
from halve.evaluate.drawing import BLUE, VERMILION, Cell, heat, heat_height, html, styled, title
from halve.evaluate.inspection import InspectedTensor, Inspection
from halve.formats import Float, Format
from halve.formats.info import exact

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_HISTOGRAM = 190  # pixels
_PLACED_BITS = 6


@dataclass(frozen=True, slots=True)
class _Measure:
    """A figure of a weight that a heat map shows; of experts, the largest."""

    name: str
    unit: str
    of: Callable[[InspectedTensor], float | None]
    digits: str
    logarithmic: bool = False


def _crest(tensor: InspectedTensor) -> float | None:
    return tensor.spread.crest if tensor.spread else None


def _kurtosis(tensor: InspectedTensor) -> float | None:
    return tensor.spread.kurtosis if tensor.spread else None


def _zeros(tensor: InspectedTensor) -> float | None:
    return 100 * tensor.spread.zero_share if tensor.spread and tensor.codes else None


def _saturated(tensor: InspectedTensor) -> float | None:
    share = tensor.codes.saturated_share if tensor.codes else None
    return None if share is None else 100 * share


def _unused(tensor: InspectedTensor) -> float | None:
    return tensor.codes.unused_bits if tensor.codes else None


_MEASURES = (
    _Measure("crest", "largest weight, rms", _crest, ".1f", logarithmic=True),
    _Measure("kurtosis", "kurtosis", _kurtosis, ".2f", logarithmic=True),
    _Measure("zeros", "zeros, %", _zeros, ".2f"),
    _Measure("saturated", "codes at either end, %", _saturated, ".2f"),
    _Measure("unused", "bits a code could save", _unused, ".3f"),
)


def pictures(inspection: Inspection) -> dict[str, str]:
    """By name, the elements that show what there is to show."""
    figures = {measure.name: _layers(inspection.measured, measure) for measure in _MEASURES}
    figures["codes"] = codes(inspection.measured)
    return {name: html(figure, name) for name, figure in figures.items() if figure is not None}


def _layers(tensors: Sequence[InspectedTensor], measure: _Measure) -> "Figure | None":
    """One heat map: kind of layer by depth; None where no decoder layer has such a figure."""
    from plotly.subplots import make_subplots  # noqa: PLC0415

    cells: dict[tuple[str, int], Cell] = {}
    for tensor in tensors:
        at, value = place(tensor.name), measure.of(tensor)
        if at is None or len(tensor.shape) < 2 or value is None or not isfinite(value):
            continue
        height = log10(max(value, 1e-9)) if measure.logarithmic else value
        known = cells.get(at)
        if known is None or known.value is None or height > known.value:
            cells[at] = Cell(height, f"{tensor.name}: {value:{measure.digits}}")
    if not cells:
        return None
    figure: Figure = make_subplots(rows=1, cols=1)
    heat(figure, 1, 1, cells, measure.unit)
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title="layer")
    bar = {"title": {"text": measure.unit, "side": "right"}, "thickness": 14, "outlinewidth": 0}
    heights = [cell.value for cell in cells.values() if cell.value is not None]
    if measure.logarithmic:
        ticks = np.linspace(min(heights), max(heights), 4).tolist() if max(heights) > min(heights) else heights[:1]
        bar |= {"tickvals": ticks, "ticktext": [f"{10**tick:{measure.digits}}" for tick in ticks]}
    figure.update_layout(coloraxis={"colorscale": "Viridis", "reversescale": True, "colorbar": bar})
    return styled(figure, heat_height(len({kind for kind, _ in cells})), grid=False)


def codes(tensors: Sequence[InspectedTensor]) -> "Figure | None":
    """How often each number of a format is used, over all weights of the format; None without counted codes."""
    from plotly.subplots import make_subplots  # noqa: PLC0415

    used: dict[str, NDArray[np.int64]] = {}
    for tensor in tensors:
        if tensor.codes and tensor.codes.histogram:
            counts = np.array(tensor.codes.histogram)
            used[tensor.codes.element] = used[tensor.codes.element] + counts if tensor.codes.element in used else counts
    if not used:
        return None
    height = _HISTOGRAM * len(used) + 60
    figure: Figure = make_subplots(rows=len(used), cols=1, vertical_spacing=min(0.4, 80 / height))
    for row, (element, counts) in enumerate(used.items(), start=1):
        _stems(figure, row, formats.get(element), counts)
    figure.update_yaxes(rangemode="tozero", ticksuffix=" %")
    figure.update_layout(showlegend=False)
    return styled(figure, height)


def _stems(figure: "Figure", row: int, fmt: Format, counts: NDArray[np.int64]) -> None:
    """A stem for each number of ``fmt``; both zeros share one."""
    used: dict[float, int] = {}
    for value, count in zip(value_table(fmt).tolist(), counts.tolist(), strict=True):
        if isfinite(value):
            used[value] = used.get(value, 0) + count
    values = sorted(used)
    shares = [100 * used[value] / max(int(counts.sum()), 1) for value in values]
    # The numbers of wide floats crowd around zero: there each gets the same room instead of its place.
    crowded = isinstance(fmt, Float) and fmt.bits > _PLACED_BITS
    places: list[float] = [*range(len(values))] if crowded else values
    ends = (values[0], values[-1])
    title(figure, row, 1, f"<b>{fmt.name}</b>, {int(counts.sum()):,} weights")
    figure.add_bar(
        row=row,
        col=1,
        x=places,
        y=shares,
        width=0.8 if crowded else 0.6 * min(b - a for a, b in pairwise(values)),
        marker={"color": [VERMILION if value in ends else BLUE for value in values], "line": {"width": 0}},
        customdata=[exact(value) for value in values],
        hovertemplate=f"{fmt.name} %{{customdata}}: %{{y:.4f}} %<extra></extra>",
    )
    if crowded:
        ticks = range(0, len(values), max(len(values) // 16, 1))
        figure.update_xaxes(tickvals=[*ticks], ticktext=[f"{values[tick]:.3g}" for tick in ticks], row=row, col=1)
    figure.update_xaxes(zeroline=False, row=row, col=1)
