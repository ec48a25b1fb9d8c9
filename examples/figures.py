"""The pictures of the pages on theory, drawn from what halve computes.

    python examples/figures.py number_lines > number_lines.svg

Text and axes take the colour of what surrounds them, so that they are readable on light and on dark pages.
"""

import sys
from collections.abc import Callable
from functools import wraps
from html import escape
from io import StringIO

import matplotlib as mpl
import numpy as np
import training
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import halve
from halve import formats
from halve.codecs import dispatch
from halve.evaluate.plan_page import compare
from halve.hardware import find
from halve.silicon import comparison
from halve.silicon.record import packaged

_TEXT = "#010203"  # stands for the colour of the text
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#999999", "#6A3D9A")  # Okabe and Ito
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "halve",
    "font.size": 9,
    "axes.prop_cycle": mpl.cycler(color=_COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _TEXT),
}


class Picture(str):
    """An SVG; a notebook shows it as one."""

    __slots__ = ()

    def _repr_svg_(self) -> str:
        return str(self)


PICTURES: dict[str, Callable[[], Picture]] = {}


def picture(columns: int = 1, height: float = 3.0) -> Callable[[Callable[..., None]], Callable[[], Picture]]:
    """A function that draws on ``columns`` axes, as one that returns the SVG; its docstring describes what is seen."""

    def decorated(draw: Callable[..., None]) -> Callable[[], Picture]:
        @wraps(draw)
        def drawn() -> Picture:
            with mpl.rc_context(_STYLE):
                figure = Figure(figsize=(7.4, height), layout="constrained")
                draw(*figure.subplots(1, columns, squeeze=False)[0])
                file = StringIO()
                figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
            svg = file.getvalue()
            svg = svg[svg.index("<svg") :].replace(_TEXT, "currentColor")
            label = escape((draw.__doc__ or "").rstrip("."), quote=True)
            return Picture(svg.replace("<svg ", f'<svg role="img" aria-label="{label}" style="max-width: 100%" ', 1))

        PICTURES[draw.__name__] = drawn
        return drawn

    return decorated


@picture(height=2.3)
def number_lines(axes: Axes) -> None:
    """All numbers from 0 to 8 of six formats: evenly spaced for integers, halved at each power of two for floats."""
    names = ("int4", "fp4_e2m1", "fp6_e2m3", "fp6_e3m2", "fp8_e5m2", "fp8_e4m3")
    for row, name in enumerate(names):
        fmt = formats.get(name)
        values = dispatch.decode(fmt, np.arange(1 << fmt.bits, dtype=np.uint8))
        values = np.unique(values[np.isfinite(values) & (values >= 0) & (values <= 8)])
        axes.plot(values, np.full(len(values), -row), "|", markersize=11, markeredgewidth=0.6)
    axes.set_yticks(-np.arange(len(names)), names)
    axes.set_xlabel("value")
    axes.spines["left"].set_visible(False)


@picture(columns=2, height=2.8)
def blocks(whole: Axes, blockwise: Axes) -> None:
    """48 weights with an outlier: under one scale most become zero in FP4, under a scale a block it follows them."""
    random = np.random.default_rng(3)
    weights = random.standard_normal(48).astype(np.float32)
    weights[37] = 14
    fmt = formats.get("fp4_e2m1")
    for axes, size, title in ((whole, 48, "one scale"), (blockwise, 16, "a scale for each 16")):
        shaped = weights.reshape(-1, size)
        scale = np.abs(shaped).max(1, keepdims=True) / np.float32(fmt.max)
        found = (dispatch.decode(fmt, dispatch.encode(fmt, shaped / scale)) * scale).ravel()
        for edge in range(0, 48, size):
            grid = np.unique(dispatch.decode(fmt, np.arange(16, dtype=np.uint8))) * scale[edge // size]
            axes.hlines(grid, edge - 0.5, edge + size - 0.5, color=_TEXT, linewidth=0.3, alpha=0.6)
        axes.plot(weights, "o", markersize=3.5, label="weight")
        axes.plot(found, "x", markersize=4.5, label="as stored")
        axes.set_title(f"{title}: {np.count_nonzero(found == 0)} of 48 become zero")
        axes.set_ylim(-4, 15)
        axes.set_xlabel("column")
    whole.legend(loc="upper left")


@picture(columns=2, height=2.8)
def rounding(stairs: Axes, sums: Axes) -> None:
    """FP4's staircase to nearest, and the mean of stochastic rounding, a straight line; and a sum that stalls."""
    x = np.linspace(0, 6.5, 400, dtype=np.float32)
    stairs.plot(x, halve.cast(x, "fp4_e2m1").values, label="nearest")
    many = halve.cast(np.tile(x, (500, 1)), "fp4_e2m1", rounding="stochastic", seed=0).values
    stairs.plot(x, many.mean(0), label="stochastic, mean of 500")
    stairs.set(xlabel="number", ylabel="in FP4")
    stairs.legend()
    for mode, label in (("nearest_even", "nearest"), ("stochastic", "stochastic")):
        total, curve = np.float32(1), [1.0]
        for i in range(1000):
            total = halve.cast(total + np.float32(0.01), "bf16", rounding=mode, seed=i).values[()]
            curve.append(float(total))
        sums.plot(curve, label=label)
    sums.plot(1 + 0.01 * np.arange(1001), "--", color=_TEXT, linewidth=0.8, label="exact")
    sums.set(xlabel="additions of 0.01", ylabel="sum in BF16")
    sums.legend()


@picture(height=3.4)
def nearest_is_not_best(axes: Axes) -> None:
    """Two weights whose inputs go together: of the codes around them, the nearest costs more than another."""
    weights = np.array([1.22, 1.72])
    grid = dispatch.decode(formats.get("fp4_e2m1"), np.arange(8, dtype=np.uint8))
    hessian = np.array([[1.0, 0.9], [0.9, 1.0]])
    span = np.linspace(0.4, 3.1, 200)
    offset = np.stack(np.meshgrid(span, span)) - weights[:, None, None]
    levels = np.einsum("iyx,ij,jyx->yx", offset, hessian, offset)
    axes.contour(span, span, levels, levels=[0.01, 0.03, 0.08, 0.2, 0.5], colors=_COLOURS[6], linewidths=0.7)
    codes = np.array([(a, b) for a in grid for b in grid if min(a, b) >= 0.5 and max(a, b) <= 3])
    axes.plot(*codes.T, ".", color=_TEXT, markersize=4)
    error = np.einsum("ci,ij,cj->c", codes - weights, hessian, codes - weights)
    nearest, best = codes[((codes - weights) ** 2).sum(1).argmin()], codes[error.argmin()]
    axes.plot(*weights, "*", color=_COLOURS[0], markersize=11, label="weights")
    for code, colour, label in ((nearest, _COLOURS[1], "nearest"), (best, _COLOURS[2], "best for the outputs")):
        cost = (code - weights) @ hessian @ (code - weights)
        axes.plot(*code, "o", color=colour, markersize=9, fillstyle="none", label=f"{label}: {cost:.3f}")
    axes.set(xlabel="first weight", ylabel="second weight", aspect="equal")
    axes.legend(title="error of the output", loc="center left", bbox_to_anchor=(1.02, 0.5))


@picture(height=3.2)
def roofline(axes: Axes) -> None:
    """What an H100 can reach over operations a byte: reading binds small batches, arithmetic large ones."""
    machine = find("H100-SXM")
    bandwidth = machine.bandwidth_gbs.value * 1e9
    intensity = np.logspace(-0.3, 4, 200)
    for name in ("bf16", "fp8"):
        axes.loglog(intensity, np.minimum(intensity * bandwidth, machine.rate(name)) / 1e12, label=f"{name} arithmetic")
    batches = np.array([1, 8, 64, 512])
    for name, bytes_, marker in (("bf16", 2, "o"), ("fp8", 1, "s")):
        at = 2 * batches / bytes_
        reached = np.minimum(at * bandwidth, machine.rate(name)) / 1e12
        axes.plot(at, reached, marker, fillstyle="none", label=f"decoding, weights in {name}")
    for batch, x, y in zip(batches, at, reached, strict=True):
        axes.annotate(f"batch {batch}", (x, y), xytext=(6, -12), textcoords="offset points")
    axes.set(xlabel="operations a byte of weights", ylabel="10¹² operations a second")
    axes.legend()


@picture(columns=2, height=3.0)
def gates(area: Axes, energy: Axes) -> None:
    """Area and energy over bits: a multiplier follows the rule of thumb, a multiply-accumulate does not."""
    found = comparison.compare(packaged().measurements, packaged().measurements).compared
    units = {"multiplier": "multiplier", "mac": "multiply-accumulate", "dot16": "dot product of 16"}
    bits = np.array([4, 8, 16, 32])
    for axes, of in ((area, "area_ratio"), (energy, "energy_ratio")):
        for (unit, label), marker in zip(units.items(), "osD", strict=True):
            rows = [c for c in found if c.measurement.unit == unit and c.measurement.subnormals]
            rows = [c for c in rows if c.measurement.format.startswith(("fp", "bf"))]
            x = [formats.get(c.measurement.format).bits for c in rows]
            axes.semilogy(x, [1 / getattr(c, of) for c in rows], marker, markersize=5, fillstyle="none", label=label)
        axes.set_xlabel("bits of a number")
        axes.set_xticks(bits)
    area.semilogy(bits, (bits / 32) ** 2, "--", color=_TEXT, linewidth=0.8, label="(bits / 32)²")
    area.set_ylabel("area, of FP32")
    energy.set_ylabel("switched capacitance, of FP32")
    area.legend()


@picture(height=3.2)
def racks(axes: Axes) -> None:
    """Tokens a second of a device over what each user sees, for two racks: the ratio grows with speed."""
    both = compare(halve.plan("DeepSeek-R1", hardware=["GB200-NVL72", "VR200-NVL72"], scheme=["nvfp4"]))
    for frontier, marker in ((both.old, "o"), (both.new, "s")):
        axes.semilogy(frontier.per_user, frontier.per_device, f"-{marker}", markersize=3, label=frontier.machine.name)
    for speed, old, _, ratio in both.rows():
        if ratio:
            axes.annotate(f"{ratio:.1f} times", (speed, old), xytext=(0, -14), textcoords="offset points")
    axes.set(xlabel="tokens a second that a user sees", ylabel="tokens a second of a device", ylim=(1, 3e4))
    axes.legend()


@picture(height=3.4)
def curves(axes: Axes) -> None:
    """Loss over steps in eight precisions: FP16 and FP8 without scales fail, NVFP4 needs stochastic gradients."""
    for recipe in training.RECIPES:
        style = "--" if recipe.name in ("BF16", "FP16, loss x 2^20") else "-"
        axes.plot(training.train(recipe), style, linewidth=1.3, label=recipe.name)
    axes.set(xlabel="step", ylabel="loss on unseen inputs", ylim=(0.75, 2.5))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


if __name__ == "__main__":
    sys.stdout.write(PICTURES[sys.argv[1]]())
