"""The pictures of a report: cost, layers, number lines."""

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log2, log10
from typing import TYPE_CHECKING

from halve import formats
from halve.evaluate.depth import place
from halve.evaluate.drawing import BLUE, GREY, INK, PALE, ROW, VERMILION, Cell, heat, html, note, styled, title
from halve.evaluate.estimate import Estimate
from halve.evaluate.evaluation import Evaluation, Loss
from halve.evaluate.labels import Point, sides
from halve.evaluate.pareto import front
from halve.formats import Codebook, Float, Format
from halve.formats.info import exact
from halve.formats.value import at_rank, ranks

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_KINDS = (
    ("weights quantized", BLUE, "circle"),
    ("weights, and what they are multiplied with", VERMILION, "diamond-open"),
)
_DRAWN_BITS = 8  # the numbers of wider formats are too many to draw


def pictures(evaluations: Sequence[Evaluation]) -> dict[str, str]:
    """By name, the elements that show what there is to show."""
    names = list(dict.fromkeys(name for e in evaluations for name in e.elements if name in formats.FORMATS))
    figures = {
        "cost": cost(evaluations),
        "layers": layers(evaluations),
        "numbers": numbers(names),
        "ranges": ranges(names),
    }
    return {name: html(figure, name) for name, figure in figures.items() if figure is not None}


def cost(evaluations: Sequence[Evaluation]) -> "Figure":
    """Divergence and growth of perplexity (without a base: perplexity) against the size of the files."""
    from plotly.subplots import make_subplots  # noqa: PLC0415

    compared = [e for e in evaluations if any(found.kld and found.kld.mean > 0 for found in e.losses)]
    figure: Figure = make_subplots(cols=2 if compared else 1, horizontal_spacing=0.12)
    if compared:
        _divergence(figure, compared, [e.label for e in evaluations if e.weights.kld and not e.weights.kld.mean])
    _perplexity(figure, 2 if compared else 1, evaluations)
    figure.update_layout(legend={"orientation": "h", "y": -0.2, "x": 0})
    return styled(figure, 450)


def _divergence(figure: "Figure", evaluations: Sequence[Evaluation], same: Sequence[str]) -> None:
    title(figure, 1, 1, "<b>KL divergence from the base</b>, nats a token")
    found = [[loss.kld for loss in e.losses] for e in evaluations]
    means = [estimate.mean for row in found for estimate in row if estimate and estimate.mean > 0]
    low, high = floor(log10(min(means)) - 0.1), ceil(log10(max(means)) + 0.1)
    _cloud(figure, 1, evaluations, found, _Axis("KLD", "nats", ".4g", 10.0**low, 10.0**high, logarithmic=True))
    figure.update_yaxes(type="log", range=[low, high], dtick=1, title="nats, logarithmic", row=1, col=1)
    if same:
        text = f"exactly 0, below this axis: {escape(', '.join(same))}"
        note(figure, 1, 1, text, {"x": 0.02, "y": 0.02, "xanchor": "left", "yanchor": "bottom"})


def _perplexity(figure: "Figure", col: int, evaluations: Sequence[Evaluation]) -> None:
    base = next((e.base_ppl for e in evaluations if e.base_ppl is not None), None)
    if base is None:
        title(figure, 1, col, "<b>Perplexity</b>")
        found: list[list[Estimate | None]] = [[loss.ppl for loss in e.losses] for e in evaluations]
    else:
        title(figure, 1, col, f"<b>Perplexity</b> above the base's {base.mean:.2f}, paired by window")
        found = [[_growth(loss) for loss in e.losses] for e in evaluations]
    ends = [end for row in found for estimate in row if estimate for end in _ends(estimate)]
    low, high = min(ends + [0.0] * (base is not None)), max(ends)
    room = 0.1 * (high - low or 1)
    unit = "" if base is None else "%"
    _cloud(
        figure, col, evaluations, found, _Axis("PPL", unit, ".3f" if base is None else "+.2f", low - room, high + room)
    )
    figure.update_yaxes(range=[low - room, high + room], row=1, col=col)
    figure.update_yaxes(title="perplexity" if base is None else "growth, %", row=1, col=col)
    if base is not None:
        figure.add_hline(0, line={"color": GREY, "dash": "dot", "width": 1.5}, row=1, col=col)
        _base(figure, col, evaluations)


def _base(figure: "Figure", col: int, evaluations: Sequence[Evaluation]) -> None:
    """The base itself, unless it is among what was measured."""
    first = evaluations[0]
    if first.against_bytes is None or first.against in {e.path for e in evaluations}:
        return
    figure.add_scatter(
        row=1,
        col=col,
        x=[first.against_bytes / 1e6],
        y=[0],
        mode="markers+text",
        marker={"size": 10, "color": GREY, "symbol": "square"},
        text=["base"],
        textposition="top center",
        showlegend=False,
        hovertemplate="<b>base</b>, %{x:.1f} MB<extra></extra>",
    )


def _called(evaluation: Evaluation, among: Sequence[Evaluation]) -> str:
    """Its label; with its bits where another has the same, as mixtures of the same schemes have."""
    alike = sum(e.label == evaluation.label for e in among) > 1
    return f"{evaluation.label}, {evaluation.bpw:.2f} bits" if alike and evaluation.bpw else evaluation.label


def _ends(estimate: Estimate) -> tuple[float, float]:
    error = estimate.error or 0
    return estimate.mean - error, estimate.mean + error


def _growth(loss: Loss) -> Estimate | None:
    ratio = loss.ppl_ratio
    return ratio and Estimate(100 * (ratio.mean - 1), None if ratio.error is None else 100 * ratio.error)


class _Axis:
    """What is drawn upwards: its name, its unit, how to write it, and from where to where."""

    def __init__(
        self, name: str, unit: str, digits: str, low: float, high: float, *, logarithmic: bool = False
    ) -> None:
        self.name, self.unit, self.digits = name, unit, digits
        self._scale = log10 if logarithmic else float
        self._low, self._high = self._scale(low), self._scale(high)

    def place(self, value: float) -> float:
        """Where between the ends, 0 to 1."""
        return (self._scale(value) - self._low) / (self._high - self._low)

    def words(self, estimate: Estimate) -> str:
        """Name, figure, error and unit."""
        error = "" if estimate.error is None else f" ± {estimate.error:{self.digits.lstrip('+')}}"
        return f"{self.name} {estimate.mean:{self.digits}}{error} {self.unit}"


def _cloud(
    figure: "Figure",
    col: int,
    evaluations: Sequence[Evaluation],
    found: Sequence[Sequence[Estimate | None]],
    axis: _Axis,
) -> None:
    """A point and its standard error for each measurement; a thread joins those of one checkpoint."""
    left, right = _sizes(evaluations)
    two = any(len(e.losses) > 1 for e in evaluations)

    def point(e: Evaluation, estimate: Estimate) -> Point:
        return Point((e.bytes / 1e6 - left) / (right - left), axis.place(estimate.mean), _called(e, evaluations))

    everything = [point(e, x) for e, row in zip(evaluations, found, strict=True) for x in row if x is not None]
    for e, row in zip(evaluations, found, strict=True):
        ends = [estimate.mean for estimate in row if estimate]
        if len(ends) > 1:
            figure.add_scatter(
                row=1,
                col=col,
                x=[e.bytes / 1e6] * len(ends),
                y=ends,
                mode="lines",
                line={"color": GREY, "width": 1, "dash": "dot"},
                showlegend=False,
                hoverinfo="skip",
            )
    _frontier(figure, col, [(e, row[0]) for e, row in zip(evaluations, found, strict=True) if row[0] is not None])
    for kind, (name, colour, symbol) in enumerate(_KINDS):
        points = [
            (e, estimate)
            for e, row in zip(evaluations, found, strict=True)
            for estimate in row[kind : kind + 1]
            if estimate is not None
        ]
        if not points:
            continue
        labels = [point(e, estimate) for e, estimate in points]
        figure.add_scatter(
            row=1,
            col=col,
            x=[e.bytes / 1e6 for e, _ in points],
            y=[estimate.mean for _, estimate in points],
            error_y={"array": [estimate.error or 0 for _, estimate in points], "thickness": 1.2, "width": 4},
            mode="markers" if kind else "markers+text",
            marker={"size": 10, "color": colour, "symbol": symbol, "line": {"width": 2, "color": colour}},
            text=[escape(_called(e, evaluations)) for e, _ in points],
            textposition=sides(labels, everything),
            textfont={"size": 12, "color": INK},
            name=name,
            legendgroup=name,
            showlegend=two and col == 1,
            customdata=[[axis.words(estimate), escape(e.losses[kind].about)] for e, estimate in points],
            hovertemplate="<b>%{text}</b>, %{x:.1f} MB<br>%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
        )
    figure.update_xaxes(title="weight files, MB", range=[left, right], row=1, col=col)


def _sizes(evaluations: Sequence[Evaluation]) -> tuple[float, float]:
    """MB at the ends of the axis: from 0, or from below the smallest of several, so that they keep apart."""
    largest = max(max(e.bytes, e.against_bytes or 0) for e in evaluations) / 1e6
    smallest = min(e.bytes for e in evaluations) / 1e6
    return (0.8 * smallest if len(evaluations) > 2 else 0.0), 1.12 * largest


def frontier(points: Sequence[tuple[Evaluation, Estimate]]) -> list[tuple[Evaluation, Estimate]]:
    """Those that lose less than all of their size or smaller (the Pareto front), the smallest first."""
    return [points[index] for index in front([(e.bytes, estimate.mean) for e, estimate in points])]


def _frontier(figure: "Figure", col: int, points: Sequence[tuple[Evaluation, Estimate]]) -> None:
    """A stair down through the best for their size: nothing that was measured lies below it."""
    best = frontier(points)
    if len(best) < 2:
        return
    figure.add_scatter(
        row=1,
        col=col,
        x=[e.bytes / 1e6 for e, _ in best],
        y=[estimate.mean for _, estimate in best],
        mode="lines",
        line={"color": BLUE, "width": 1.5, "shape": "hv"},
        opacity=0.45,
        name="best for their size",
        legendgroup="frontier",
        showlegend=col == 1,
        hoverinfo="skip",
    )


def layers(evaluations: Sequence[Evaluation]) -> "Figure | None":
    """A heat map for each checkpoint that lost something: kind of layer by depth, coloured by its output SQNR."""
    from plotly.subplots import make_subplots  # noqa: PLC0415

    lossy = [e for e in evaluations if any(place(layer.name) for layer in e.layers)]
    if not lossy:
        return None
    columns = min(len(lossy), 2)
    rows = -(-len(lossy) // columns)
    height = 200 * rows + 60
    figure: Figure = make_subplots(
        rows=rows, cols=columns, vertical_spacing=min(0.4, 70 / height), horizontal_spacing=0.06, shared_yaxes=True
    )
    for index, evaluation in enumerate(lossy):
        row, col = (number + 1 for number in divmod(index, columns))
        heat(figure, row, col, _cells(evaluation), "outputs %{z:.2f} dB")
        mean = evaluation.mean_output_db
        loss = "" if mean is None else f", mean {mean:.1f} dB"
        title(figure, row, col, f"<b>{escape(evaluation.label)}</b>{loss}")
    figure.update_yaxes(autorange="reversed")
    for col in range(columns):
        figure.update_xaxes(title="layer", row=rows, col=col + 1)
    colorbar = {"title": {"text": "output SQNR, dB", "side": "right"}, "thickness": 14, "outlinewidth": 0}
    figure.update_layout(coloraxis={"colorscale": "Viridis", "colorbar": colorbar})
    return styled(figure, height, grid=False)


def _cells(evaluation: Evaluation) -> dict[tuple[str, int], Cell]:
    """The worst of the layers of a kind at a depth: experts are many."""
    found = {}
    for layer in sorted(evaluation.layers, key=lambda layer: -layer.output_db):
        if at := place(layer.name):
            found[at] = Cell(layer.output_db, f"{layer.name}, weights {layer.weight_db:.2f} dB")
    order = dict.fromkeys(at for layer in evaluation.layers if (at := place(layer.name)))
    return {at: found[at] for at in order}


def numbers(names: Sequence[str]) -> "Figure | None":
    """Every number of each format that is narrow enough, as fractions of its largest; None where none is."""
    from plotly.graph_objects import Figure  # noqa: PLC0415

    drawn = [fmt for fmt in map(formats.get, names) if fmt.bits <= _DRAWN_BITS and fmt.min < 0]
    if not drawn:
        return None
    figure = Figure()
    for fmt in drawn:
        values = [at_rank(fmt, rank) for rank in ranks(fmt)]
        largest = max(map(abs, values))
        figure.add_scatter(
            x=[v / largest for v in values],
            y=[f"{fmt.name} "] * len(values),
            mode="markers",
            marker={"symbol": "line-ns", "size": 24, "line": {"width": 0.8 if fmt.bits > 6 else 1.6, "color": BLUE}},
            customdata=[exact(v) for v in values],
            hovertemplate=f"{fmt.name}: %{{customdata}}<extra></extra>",
        )
    figure.update_xaxes(title="fraction of the format's largest magnitude", zeroline=False, range=[-1.03, 1.03])
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(showlegend=False)
    return styled(figure, ROW * len(drawn) + 90, grid=False)


def ranges(names: Sequence[str]) -> "Figure | None":
    """From the smallest positive number of each format to its largest; paler where precision fades (subnormals)."""
    from plotly.graph_objects import Figure  # noqa: PLC0415

    known = [formats.get(name) for name in names]
    if not known:
        return None
    figure = Figure()
    for colour, word, spans in (
        (PALE, "subnormal, fewer digits", [(fmt, _smallest(fmt), _normal(fmt)) for fmt in known]),
        (BLUE, "full precision", [(fmt, _normal(fmt), fmt.max) for fmt in known]),
    ):
        figure.add_bar(
            orientation="h",
            y=[f"{fmt.name} " for fmt, *_ in spans],
            base=[log2(low) for _, low, _ in spans],
            x=[log2(high) - log2(low) for _, low, high in spans],
            width=0.45,
            marker={"color": colour},
            text=[f" {_smallest(fmt):.3g} to {fmt.max:.4g}" if colour == BLUE else "" for fmt in known],
            textposition="outside",
            name=word,
            customdata=[[word, f"{low:.4g}", f"{high:.4g}"] for _, low, high in spans],
            hovertemplate="%{y}, %{customdata[0]}: %{customdata[1]} to %{customdata[2]}<extra></extra>",
        )
    low, high = min(log2(_smallest(fmt)) for fmt in known), max(log2(fmt.max) for fmt in known)
    figure.update_xaxes(title="power of two", zeroline=False, range=[low - 2, high + 0.3 * (high - low)])
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_layout(barmode="overlay", legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    return styled(figure, ROW * len(known) + 110)


def _smallest(fmt: Format) -> float:
    match fmt:
        case Float():
            return fmt.smallest
        case Codebook():
            return min(v for v in fmt.values if v > 0)
        case _:
            return 1.0


def _normal(fmt: Format) -> float:
    return fmt.smallest_normal if isinstance(fmt, Float) else _smallest(fmt)
