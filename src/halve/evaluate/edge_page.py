"""The page on an integer model: its results beside the float model's, what each layer loses, what leaves the NPU."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halve.edge.beside import Beside, Pair
from halve.edge.checked import Check
from halve.evaluate import page
from halve.evaluate.drawing import BLUE, html, styled

SHOWN = 12  # inputs
_TOP = 3  # classes
_SIDE = 224  # pixels of a picture at most
_BAR = 18  # pixels


@dataclass(frozen=True, slots=True)
class Card:
    """One input: pictures as data URLs, results in words; None where it is no picture."""

    picture: str | None
    exact: str | None
    found: str | None
    said_exact: str
    said_found: str
    same: bool


def write(path: str | Path, beside: Beside, check: Check | None) -> None:
    """Write the page. Raises UnsupportedError without plotly, OutputError for the place."""
    page.check(path)
    page.write(path, render(beside, check))


def render(beside: Beside, check: Check | None) -> str:
    """The page."""
    return page.render(
        "edge.html.jinja",
        title=f"{beside.quantized} beside {beside.model}",
        beside=beside,
        agreement=beside.agreement,
        cards=list(_cards(beside)),
        pictures={"layers": _layers(beside)},
        check=check,
        fallbacks=[]
        if check is None
        else [(s.layer.name, s.layer.op, s.placement.unit, s.placement.reason) for s in check.fallbacks],
    )


def _cards(beside: Beside) -> Iterator[Card]:
    for pair in beside.pairs[:SHOWN]:
        seen = next((_picture(value) for value in pair.inputs.values() if value.ndim == 4), None)
        if pair.exact.ndim == 4 and min(pair.exact.shape[2:]) > 1:
            yield Card(seen, _map(pair.exact, pair), _map(pair.found, pair), "", "", same=True)
            continue
        same = _classes(pair.exact) == _classes(pair.found)
        yield Card(seen, None, None, _said(pair.exact), _said(pair.found), same=same)


def _classes(output: NDArray[np.float32]) -> list[int]:
    found: list[int] = output.reshape(-1, output.shape[-1]).argmax(axis=-1).tolist()
    return found


def _said(output: NDArray[np.float32]) -> str:
    """The likeliest classes; of a sequence the likeliest at each place, repetitions once."""
    rows = output.reshape(-1, output.shape[-1])
    if len(rows) > 1:
        classes = _classes(output)
        return " ".join(str(c) for i, c in enumerate(classes) if i == 0 or c != classes[i - 1])
    order = np.argsort(-rows[0], kind="stable")[:_TOP]
    return ", ".join(f"{index}: {rows[0, index]:.3f}" for index in order)


def _picture(value: NDArray[np.generic]) -> str:
    """An input as it may have looked: its values from the least to the most."""
    first = np.asarray(value[0], np.float32)
    planes = first.transpose(1, 2, 0) if first.shape[0] in (1, 3) else first
    return _url(planes, float(planes.min()), float(planes.max()))


def _map(output: NDArray[np.float32], pair: Pair) -> str:
    """The first plane of an output, in the float model's range."""
    return _url(output[0, 0][:, :, None], float(pair.exact.min()), float(pair.exact.max()))


def _url(planes: NDArray[np.float32], low: float, high: float) -> str:
    from PIL import Image  # noqa: PLC0415 - an extra

    values = np.clip((planes - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8)
    image = Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values[:, :, :3])
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _layers(beside: Beside) -> str:
    from plotly import graph_objects  # noqa: PLC0415 - 5 MB of JavaScript come along

    worst = beside.layers[:40][::-1]
    bars: Any = graph_objects.Bar(
        x=[min(db, 100) for _, _, db in worst], y=[name for name, _, _ in worst], orientation="h", marker_color=BLUE
    )
    figure = graph_objects.Figure(bars)
    figure.update_xaxes(title="SQNR of the output, dB")
    return html(styled(figure, 120 + _BAR * len(worst)), "layers")
