"""The shape of any decoder that is served today, from its config.json: matrices by role, and what attention keeps.

Where `halve.models.geometry` names every tensor of the Llama family, this counts, for many families, what memory and
speed depend on: grouped and latent attention, windows, chunks, linear attention, experts. Biases are left out.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Role = Literal["attention", "mlp", "expert", "shared", "router", "embedding", "head", "norm"]
QUANTIZED: tuple[Role, ...] = ("attention", "mlp", "expert", "shared")  # what engines have in few bits


@dataclass(frozen=True, slots=True)
class Matrix:
    """``count`` weights of ``[rows, columns]``."""

    role: Role
    rows: int
    columns: int
    count: int = 1

    @property
    def numbers(self) -> int:
        """How many numbers they hold."""
        return self.rows * self.columns * self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """The attention of a layer.

    ``cached`` numbers are kept for every token (of the last ``window``, where there is one), ``state`` numbers for
    every sequence whatever its length. ``kv_heads`` says into how many parts the cache can be split; 1 for latents,
    which every device keeps whole. ``pair_macs``: multiplications of one query with one cached token while decoding,
    and ``prefill_macs`` while prefilling; exponentials are ``heads`` a pair.
    """

    kind: Literal["full", "window", "latent", "linear"]
    matrices: tuple[Matrix, ...]
    heads: int
    kv_heads: int
    cached: int
    pair_macs: int
    prefill_macs: int
    state: int = 0
    window: int | None = None

    def reach(self, context: float) -> float:
        """Tokens that are kept, and attended to, at ``context`` tokens."""
        return min(context, self.window) if self.window else context


@dataclass(frozen=True, slots=True, kw_only=True)
class Mlp:
    """What follows attention. Without ``experts`` a plain MLP; with them, ``active`` of them are taken by a token."""

    matrices: tuple[Matrix, ...]
    experts: int = 0
    active: int = 0


@dataclass(frozen=True, slots=True)
class Layer:
    """``count`` layers alike."""

    attention: Attention
    mlp: Mlp
    count: int = 1

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """Those of one layer."""
        return self.attention.matrices + self.mlp.matrices


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A decoder. ``norms`` numbers a layer are neither quantized nor multiplied with."""

    name: str
    hidden: int
    vocab: int
    tied: bool
    layers: tuple[Layer, ...]
    source: str = ""
    published_as: str = ""

    @property
    def depth(self) -> int:
        """How many layers it has."""
        return sum(layer.count for layer in self.layers)

    @property
    def matrices(self) -> Iterator[Matrix]:
        """All, alike ones together; norms as rows of one column."""
        yield Matrix("embedding", self.vocab, self.hidden)
        if not self.tied:
            yield Matrix("head", self.vocab, self.hidden)
        found: Counter[tuple[Role, int, int]] = Counter()
        for layer in self.layers:
            for matrix in layer.matrices:
                found[matrix.role, matrix.rows, matrix.columns] += matrix.count * layer.count
        for (role, rows, columns), count in found.items():
            yield Matrix(role, rows, columns, count)
        yield Matrix("norm", self.hidden, 1, 2 * self.depth + 1)

    @property
    def count(self) -> int:
        """How many numbers it has; a tied head counts once."""
        return sum(matrix.numbers for matrix in self.matrices)

    @property
    def active(self) -> int:
        """How many numbers a token meets: without the embedding and the experts that are not taken."""
        total = self.vocab * self.hidden
        for layer in self.layers:
            for matrix in layer.matrices:
                share = layer.mlp.active / layer.mlp.experts if matrix.role == "expert" else 1
                total += round(matrix.numbers * share) * layer.count
        return total

    def cached(self, context: float) -> float:
        """Numbers that one sequence of ``context`` tokens keeps, in all layers."""
        return sum(
            layer.count * (layer.attention.cached * layer.attention.reach(context) + layer.attention.state)
            for layer in self.layers
        )
