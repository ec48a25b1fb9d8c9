"""What was found in a checkpoint."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import compress
from math import prod
from typing import Any, ClassVar

from halve.checkpoint.place import Place
from halve.evaluate.weights import CodeUse, Spread

WORST = 10  # weights to name
Row = tuple[str | int | None, ...]
_VALUES = (
    *("tensor", "element", "amax", "rms", "amax/rms", "kurtosis", "> 6 rms", "zeros, %", "not finite"),
    *("saturated, %", "entropy, bits", "zero blocks", "block scales", "tensor scale"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedTensor:
    """A weight by the name and shape that the model gives it, and the tensors in which it is stored."""

    name: str
    shape: tuple[int, ...]
    stored: tuple[str, ...]  # "name DTYPE [shape]"
    bytes: int
    bpw: float
    quantized: bool
    element: str  # number format, block type of llama.cpp, or dtype
    scheme: str  # of a quantized weight: its name in the table, else what it is; empty for plain numbers
    note: str  # why quantizing would leave it alone
    spread: Spread | None = None  # None where values were not read, or are no floats
    codes: CodeUse | None = None  # of a quantized weight

    @property
    def dtypes(self) -> str:
        """Types of the stored tensors."""
        return " + ".join(text.split()[1] for text in self.stored)

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values; ``spread`` and ``codes`` where values were read."""
        facts: dict[str, Any] = {
            "name": self.name,
            "shape": list(self.shape),
            "stored": list(self.stored),
            "bytes": self.bytes,
            "bpw": round(self.bpw, 4),
            "quantized": self.quantized,
            "element": self.element,
            "scheme": self.scheme or None,
            "note": self.note,
        }
        if self.spread is not None:
            facts["spread"] = self.spread.to_json()
        if self.codes is not None:
            facts["codes"] = self.codes.to_json()
        return facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A checkpoint, listed; with its values where they were read."""

    path: Place
    architecture: str
    layout: str
    tensors: tuple[InspectedTensor, ...]

    @property
    def parameters(self) -> int:
        """Weights of the model, however they are stored."""
        return sum(prod(t.shape) for t in self.tensors)

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.bytes for t in self.tensors)

    @property
    def bpw(self) -> float:
        """Bits per weight over the whole model."""
        return 8 * self.bytes / max(self.parameters, 1)

    @property
    def quantized_bpw(self) -> float | None:
        """Bits per weight over the quantized tensors; None where there are none."""
        found = [t for t in self.tensors if t.quantized]
        return 8 * sum(t.bytes for t in found) / max(sum(prod(t.shape) for t in found), 1) if found else None

    @property
    def schemes(self) -> tuple[str, ...]:
        """Schemes of the quantized weights, the most frequent first."""
        return tuple(name for name, _ in Counter(t.scheme for t in self.tensors if t.scheme).most_common())

    @property
    def element(self) -> str:
        """The most frequent number format of quantized weights; empty where there are none."""
        found = Counter(t.element for t in self.tensors if t.quantized)
        return found.most_common(1)[0][0] if found else ""

    @property
    def measured(self) -> list[InspectedTensor]:
        """Weights whose values were read."""
        return [t for t in self.tensors if t.spread is not None]

    @property
    def worst(self) -> list[InspectedTensor]:
        """Matrices that are hardest to quantize, by their largest number in rms; the worst first."""
        found = [t for t in self.measured if len(t.shape) > 1]
        return sorted(found, key=lambda t: -((t.spread and t.spread.crest) or 0))[:WORST]

    @property
    def detected(self) -> str:
        """How the weights are stored, in a few words."""
        if not self.element:
            return f"{self.layout}, not quantized"
        return f"{self.layout}, {' + '.join(self.schemes) or self.element}"

    @property
    def summary(self) -> str:
        """Size and precision, in a line."""
        quantized = "" if self.quantized_bpw is None else f", {self.quantized_bpw:.2f} over what is quantized"
        return f"{self.bpw:.2f} bits per weight over the whole model{quantized}"

    columns: ClassVar[tuple[str, ...]] = ("tensor", "shape", "stored as", "scheme", "bytes", "bpw", "note")

    def rows(self) -> Iterator[Row]:
        """The cells of `columns`, a row a weight."""
        for t in self.tensors:
            shape = "x".join(map(str, t.shape))
            yield t.name, shape, t.dtypes, t.scheme or None, t.bytes, f"{t.bpw:.2f}", t.note

    def value_table(self, tensors: Sequence[InspectedTensor] | None = None) -> tuple[list[str], list[Row]]:
        """Columns and rows of all that was read, or of ``tensors``; columns without an entry are left out."""
        rows = [_values(t) for t in (self.measured if tensors is None else tensors)]
        filled = [any(row[index] is not None for row in rows) for index in range(len(_VALUES))]
        return list(compress(_VALUES, filled)), [tuple(compress(row, filled)) for row in rows]

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "path": str(self.path),
            "architecture": self.architecture,
            "layout": self.layout,
            "scheme": " + ".join(self.schemes) or None,
            "element": self.element,
            "parameters": self.parameters,
            "bytes": self.bytes,
            "bpw": round(self.bpw, 4),
            "quantized_bpw": None if self.quantized_bpw is None else round(self.quantized_bpw, 4),
            "tensors": [t.to_json() for t in self.tensors],
        }

    def _repr_html_(self) -> str:
        head = (
            f"<b>{escape(self.architecture)}</b>, {escape(str(self.path))}: {self.parameters / 1e6:,.1f} M parameters, "
            f"{self.bytes / 1e6:,.1f} MB, {escape(self.detected)}; {self.summary}"
        )
        columns, rows = self.value_table() if self.measured else (list(self.columns), list(self.rows()))
        heads = "".join(f"<th>{escape(column)}</th>" for column in columns)
        body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        return f"<p>{head}</p><table><tr>{heads}</tr>{body}</table>"


def _values(tensor: InspectedTensor) -> Row:
    """The cells of ``_VALUES``."""
    spread, codes = tensor.spread, tensor.codes
    if spread is None:
        return tensor.name, tensor.element, *(None,) * (len(_VALUES) - 2)
    cells: Row = (
        tensor.name,
        tensor.element,
        f"{spread.amax:.4g}",
        f"{spread.rms:.4g}",
        _number(spread.crest, ".1f"),
        _number(spread.kurtosis, ".2f"),
        spread.far,
        f"{100 * spread.zero_share:.2f}",
        spread.nonfinite or None,
    )
    if codes is None:
        return cells + (None,) * (len(_VALUES) - len(cells))
    share = codes.saturated_share
    return (
        *cells,
        _number(None if share is None else 100 * share, ".2f"),
        _number(codes.entropy, ".3f"),
        codes.zero_blocks,
        f"{codes.scales[0]:.3g} to {codes.scales[1]:.3g}" if codes.scales else None,
        _number(codes.tensor_scale, ".4g"),
    )


def _number(x: float | None, digits: str) -> str | None:
    return None if x is None else f"{x:{digits}}"


def _cell(cell: str | int | None) -> str:
    return "-" if cell is None else escape(str(cell))
