"""The page on a plan: options, what a million tokens cost, throughput over interactivity, Rubin against Blackwell."""

from dataclasses import replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from halve import schemes
from halve.evaluate import page
from halve.evaluate.drawing import BLUE, ROW, VERMILION, html, styled
from halve.hardware import Machine, find
from halve.plan.frontier import Comparison, Frontier, frontier, frontiers
from halve.plan.precision import Precision
from halve.plan.search import kv_of
from halve.plan.serving import ServingPlan

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_DRAWN = 16  # options with a price; more are in the table
_CURVES = 6
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
OLD, NEW, COMPARED = "GB200-NVL72", "VR200-NVL72", "nvfp4"


def write(path: str | Path, plan: ServingPlan) -> None:
    """Write ``plan`` to the HTML file ``path``. Raises UnsupportedError without plotly, OutputError for the place."""
    page.check(path)
    page.write(path, render(plan))


def render(plan: ServingPlan) -> str:
    """The page."""
    figures = {"cost": _cost(plan), "frontier": _frontiers(plan)}
    return page.render(
        "plan.html.jinja",
        title=f"Serving {plan.subject.shape.name}",
        plan=plan,
        comparison=compare(plan),
        pictures={name: html(figure, name) for name, figure in figures.items() if figure is not None},
    )


def compare(plan: ServingPlan) -> Comparison | None:
    """Rubin against Blackwell on this model and request, both in NVFP4; None where one has no place for it.

    Of both the 16-bit arithmetic is left out while the dense 16-bit rate of one is not known.
    """
    pair = [find(OLD), find(NEW)]
    if any(machine.rate("bf16") is None for machine in pair):
        pair = [_without_wide(machine) for machine in pair]
    found = []
    for machine in pair:
        precision = Precision(schemes.get(COMPARED), kv_of(machine, COMPARED))
        found.append(frontier(plan.subject.shape, machine, precision, plan.request))
    old, new = found
    return Comparison(old, new) if old is not None and new is not None else None


def _without_wide(machine: Machine) -> Machine:
    rates = {name: rate for name, rate in machine.dense_tflops.items() if name not in ("bf16", "fp16")}
    return replace(machine, dense_tflops=rates)


def _cost(plan: ServingPlan) -> "Figure | None":
    """What a million tokens cost, from the lowest to the highest price found."""
    from plotly.graph_objects import Figure  # noqa: PLC0415 - 5 MB of JavaScript come along

    priced = [(o, o.cost.mixed) for o in plan.options if o.cost.mixed is not None][:_DRAWN]
    if not priced:
        return None
    labels = [escape(f"{o.machine.name}, {o.precision.scheme.name}, {o.parallel.name}") for o, _ in priced]
    figure = Figure()
    figure.add_bar(
        y=labels,
        x=[max(price.high - price.low, price.high * 0.01) for _, price in priced],
        base=[price.low for _, price in priced],
        orientation="h",
        marker={"color": BLUE},
        customdata=[[price.text, escape(o.binding)] for o, price in priced],
        hovertemplate="%{y}<br>$%{customdata[0]}<br>bound by %{customdata[1]}<extra></extra>",
    )
    figure.update_xaxes(title="US dollars a million tokens, read and written as requested", rangemode="tozero")
    figure.update_yaxes(autorange="reversed")
    return styled(figure, ROW * len(priced) // 2 + 120)


def _frontiers(plan: ServingPlan) -> "Figure | None":
    """Tokens a second of a device over those that a user sees."""
    from plotly.graph_objects import Figure  # noqa: PLC0415

    seen: dict[str, tuple] = {}  # type: ignore[type-arg]
    for option in plan.options:
        seen.setdefault(option.machine.name, (option.machine, option.precision))
    curves: list[Frontier] = frontiers(plan.subject.shape, list(seen.values())[:_CURVES], plan.request)
    if not curves:
        return None
    figure = Figure()
    for number, curve in enumerate(curves):
        figure.add_scatter(
            x=curve.per_user.tolist(),
            y=curve.per_device.tolist(),
            mode="lines+markers",
            name=escape(f"{curve.machine.name}, {curve.precision.scheme.name}"),
            line={"dash": _DASHES[number], "color": BLUE if number % 2 == 0 else VERMILION},
            marker={"symbol": number},
            hovertemplate="%{x:.0f} tokens/s a user<br>%{y:.0f} tokens/s a device<extra></extra>",
        )
    figure.update_xaxes(title="tokens a second that a user sees", type="log")
    figure.update_yaxes(title="tokens a second of a device", type="log")
    figure.update_layout(legend={"orientation": "h", "y": -0.2, "x": 0})
    return styled(figure, 480)
