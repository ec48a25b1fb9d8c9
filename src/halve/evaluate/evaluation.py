"""What was measured of one checkpoint."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite
from statistics import fmean
from typing import Any, ClassVar

import numpy as np

from halve.checkpoint.place import Place
from halve.evaluate.estimate import Estimate, finite
from halve.evaluate.layers import LayerLoss
from halve.evaluate.operands import Operands
from halve.evaluate.passages import Passage
from halve.evaluate.scores import Scores
from halve.evaluate.text import Text

WORST = 10  # layers to name


@dataclass(frozen=True, slots=True)
class TextFacts:
    """A text, and how much of it was used."""

    name: str
    sha256: str
    passages: int


@dataclass(frozen=True, slots=True)
class PassageLoss:
    """Means over the scored tokens of one passage; what compares with a base is None without one."""

    text: str
    number: int
    nll: float  # nats a token
    base_nll: float | None
    kld: float | None  # nats a token
    same_top: float | None  # percent of the tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """How well a model predicts the texts when it is fed in one way, and how far it is from its base."""

    operands: str  # in short: weights, weights + activations ...
    about: str  # in full
    ppl: Estimate
    ppl_ratio: Estimate | None  # to the base's, passage by passage
    kld: Estimate | None  # KL(base || model), nats a token
    kld_99: float | None  # what 99 % of the tokens stay below
    kld_max: float | None
    same_top: Estimate | None  # percent of tokens where both find the same one likeliest
    passages: tuple[PassageLoss, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "operands": self.operands,
            "about": self.about,
            **self.figures(),
            "passages": [
                {
                    "text": p.text,
                    "number": p.number,
                    "nll": finite(p.nll),
                    "base_nll": finite(p.base_nll),
                    "kld": finite(p.kld),
                    "same_top": p.same_top,
                }
                for p in self.passages
            ],
        }

    def figures(self) -> dict[str, Any]:
        """The figures alone; null where there is no base."""
        nothing = Estimate(float("nan"), None)
        return {
            **self.ppl.to_json("ppl"),
            **(self.ppl_ratio or nothing).to_json("ppl_ratio"),
            **(self.kld or nothing).to_json("kld"),
            "kld_99": finite(self.kld_99),
            "kld_max": finite(self.kld_max),
            **(self.same_top or nothing).to_json("same_top"),
        }


def loss(operands: Operands, passages: Sequence[Passage], scores: Sequence[Scores]) -> Loss:
    """Sum up the ``scores`` of ``passages``. All passages are of one length, so a mean of means is the mean."""
    rows = tuple(_row(passage, found) for passage, found in zip(passages, scores, strict=True))
    nll = [row.nll for row in rows]
    ppl = Estimate.of(nll).exp()
    compared = [found.base for found in scores if found.base is not None]
    if not compared:
        none = {"ppl_ratio": None, "kld": None, "kld_99": None, "kld_max": None, "same_top": None}
        return Loss(operands=operands.short, about=operands.about, ppl=ppl, passages=rows, **none)
    kld = np.concatenate([found.kld for found in compared])
    return Loss(
        operands=operands.short,
        about=operands.about,
        ppl=ppl,
        ppl_ratio=Estimate.of([float((s.nll - s.base.nll).mean()) for s in scores if s.base is not None]).exp(),
        kld=Estimate.of([float(found.kld.mean()) for found in compared]),
        kld_99=float(np.quantile(kld, 0.99)),
        kld_max=float(kld.max()),
        same_top=Estimate.of([100 * float(found.same_top.mean()) for found in compared]),
        passages=rows,
    )


def _row(passage: Passage, scores: Scores) -> PassageLoss:
    base = scores.base
    return PassageLoss(
        text=passage.text.name,
        number=passage.number,
        nll=float(scores.nll.mean()),
        base_nll=None if base is None else float(base.nll.mean()),
        kld=None if base is None else float(base.kld.mean()),
        same_top=None if base is None else 100 * float(base.same_top.mean()),
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """What the model writes, the likeliest token each time; activations and cache as they come."""

    prompt: str
    text: str
    tokens_per_s: float  # of the reference path

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {"prompt": self.prompt, "text": self.text, "tokens_per_s": self.tokens_per_s}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One checkpoint, measured. ``losses`` begin with that of the weights alone."""

    path: Place
    against: Place | None
    label: str  # the scheme, or the format of the weights
    elements: tuple[str, ...]  # number formats in use: weights, scales, activations, cache
    bytes: int  # of the weight files
    against_bytes: int | None
    bpw: float | None  # bits per weight of linear layers, scales included
    texts: tuple[TextFacts, ...]
    window: int  # tokens
    scored: int  # tokens, in all passages
    base_ppl: Estimate | None
    losses: tuple[Loss, ...]
    layers: tuple[LayerLoss, ...]  # that differ from the base's, in the order in which they run
    sample: Sample | None
    eval_tokens_per_s: float  # read and scored, the base's part not counted
    seconds: float

    columns: ClassVar[tuple[str, ...]] = (
        "operands",
        "PPL",
        "PPL / base",
        "KLD, nats",
        "KLD 99 %",
        "KLD max",
        "same top, %",
    )

    @property
    def weights(self) -> Loss:
        """The loss of the weights alone."""
        return self.losses[0]

    @property
    def worst(self) -> list[LayerLoss]:
        """Layers whose outputs lost most, the worst first."""
        return sorted(self.layers, key=lambda layer: layer.output_db)[:WORST]

    @property
    def mean_output_db(self) -> float | None:
        """Mean SQNR of the outputs of the layers that differ; None where none does."""
        found = [layer.output_db for layer in self.layers if isfinite(layer.output_db)]
        return fmean(found) if found else None

    @property
    def mean_weight_db(self) -> float | None:
        """Mean SQNR of the weights of the layers that differ; None where none does."""
        found = [layer.weight_db for layer in self.layers if isfinite(layer.weight_db)]
        return fmean(found) if found else None

    def rows(self) -> Iterator[tuple[str | None, ...]]:
        """The cells of `columns`: the base, then one row for each way of feeding the model."""
        if self.base_ppl is not None:
            yield ("base", self.base_ppl.text(3), None, None, None, None, None)
        for found in self.losses:
            yield (
                found.operands,
                found.ppl.text(3),
                _cell(found.ppl_ratio, 4),
                _cell(found.kld, 5),
                None if found.kld_99 is None else f"{found.kld_99:.4f}",
                None if found.kld_max is None else f"{found.kld_max:.4f}",
                _cell(found.same_top, 2),
            )

    worst_columns: ClassVar[tuple[str, ...]] = ("worst layers", "output dB", "with activations dB", "weight dB")

    def worst_rows(self) -> Iterator[tuple[str, ...]]:
        """The cells of `worst_columns`."""
        for layer in self.worst:
            operands = "-" if layer.operands_db is None else f"{layer.operands_db:.2f}"
            yield layer.name, f"{layer.output_db:.2f}", operands, f"{layer.weight_db:.2f}"

    @property
    def method(self) -> Iterator[str]:
        """How it was measured, a sentence a line."""
        for text in self.texts:
            yield f"text: {text.name}, sha256 {text.sha256[:16]}, {text.passages} windows of {self.window} tokens"
        yield (
            f"{self.scored} tokens scored: the second half of each window. ± is one standard error over windows. "
            "KLD: KL(base || this), the whole vocabulary, float64"
        )
        for found in self.losses:
            yield f"{found.operands}: {found.about}"
        if self.layers:
            yield "layers: SQNR of outputs for the base's own activations"

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values; the figures at the top are those of the weights alone."""
        return {
            "path": str(self.path),
            "against": None if self.against is None else str(self.against),
            "scheme": self.label,
            "bytes": self.bytes,
            "against_bytes": self.against_bytes,
            "bpw": None if self.bpw is None else round(self.bpw, 4),
            **self.weights.figures(),
            **(self.base_ppl or Estimate(float("nan"), None)).to_json("base_ppl"),
            "mean_output_db": self.mean_output_db,
            "mean_weight_db": self.mean_weight_db,
            "losses": [found.to_json() for found in self.losses],
            "layers": [layer.to_json() for layer in self.layers],
            "worst": [layer.name for layer in self.worst],
            "texts": [{"name": t.name, "sha256": t.sha256, "passages": t.passages} for t in self.texts],
            "window": self.window,
            "scored": self.scored,
            "tokens_per_s": None if self.sample is None else self.sample.tokens_per_s,
            "sample": None if self.sample is None else self.sample.to_json(),
            "eval_tokens_per_s": self.eval_tokens_per_s,
            "seconds": self.seconds,
        }

    def _repr_html_(self) -> str:
        head = f"<b>{escape(self.label)}</b>, {escape(str(self.path))}, {self.bytes / 1e6:.1f} MB"
        tables = _html_table(self.columns, self.rows())
        if self.layers:
            tables += _html_table(self.worst_columns, self.worst_rows())
        notes = "<br>".join(escape(line) for line in self.method)
        return f"<p>{head}</p>{tables}<p>{notes}</p>"


def facts(texts: Sequence[Text], passages: Sequence[Passage]) -> tuple[TextFacts, ...]:
    """What identifies ``texts``, and how many of the ``passages`` are of each."""
    return tuple(TextFacts(t.name, t.sha256, sum(p.text is t for p in passages)) for t in texts)


def _cell(estimate: Estimate | None, digits: int) -> str | None:
    return None if estimate is None else estimate.text(digits)


def _html_table(columns: Sequence[str], rows: Iterator[tuple[str | None, ...]]) -> str:
    heads = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell or '-')}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{heads}</tr>{body}</table>"
