"""Bytes that a model's weights take under each scheme, to the last scale, without a checkpoint.

What a layout adds on top (shapes, padding, file headers) is not here: `halve quantize --dry-run` counts it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from halve import formats
from halve.errors import FormatError
from halve.models.geometry import Geometry, Parameter
from halve.schemes import SCHEMES, Block, Scheme

KEPT = "bf16"  # what engines keep embeddings, head, norms and biases in; FP16 is as large
TENSOR_SCALE_BYTES = 4  # FP32


def block_bytes(block: Block, rows: int, columns: int) -> int:
    """Bytes of codes, scales, minima, zero points and tensor scale of a ``[rows, columns]`` weight.

    Raises FormatError for columns that the block size does not divide.
    """
    blocks_down, blocks_across = block.scale_shape(rows, columns)
    element = block.element_format
    total = rows * _bytes(columns, element.storage_bits)
    if block.scale_format is not None:
        total += (1 + block.minimum) * _bytes(blocks_down * blocks_across, block.scale_format.storage_bits)
    if block.zero_point:
        total += _bytes(blocks_down * blocks_across, element.storage_bits)
    return total + (TENSOR_SCALE_BYTES if block.tensor_scale else 0)


def model_bytes(geometry: Geometry, scheme: Scheme, *, embeddings: bool = False) -> int:
    """Bytes of all weights of ``geometry`` under ``scheme``.

    ``embeddings`` means that the embedding and the head are quantized too. Schemes that are a plain cast take every
    tensor. Raises FormatError where no block size of the scheme divides every
    quantized tensor.
    """
    kinds = {"linear", "embedding", "head"} if embeddings else {"linear"}
    parameters = geometry.parameters
    selected = [p for p in parameters if scheme.dense or p.kind in kinds]
    block = scheme.fitted([p.shape[1] for p in selected if p.kind in kinds]).weight
    kept = formats.get(KEPT).storage_bits // 8 * (sum(p.count for p in parameters) - sum(p.count for p in selected))
    return kept + sum(block_bytes(block, *_matrix(p)) for p in selected)


@dataclass(frozen=True, slots=True)
class Footprint:
    """One way to store weights, and what it makes of each model."""

    schemes: tuple[Scheme, ...]  # all that store weights alike; they differ in activations
    nominal: int
    models: dict[str, tuple[int, int] | None]  # name -> bytes with 16-bit embeddings, with everything quantized

    @property
    def bits(self) -> int:
        """Bits of the element alone."""
        return self.schemes[0].weight.element_format.storage_bits

    @property
    def bpw(self) -> float:
        """Bits per weight, scales included."""
        return self.schemes[0].bpw

    @property
    def naive(self) -> float:
        """Bytes by the rule of thumb: nominal weights x element bits / 8."""
        return self.nominal * self.bits / 8

    @property
    def scaled(self) -> float:
        """Bytes by the same rule with block scales: nominal weights x bpw / 8."""
        return self.nominal * self.bpw / 8


@dataclass(frozen=True, slots=True)
class FootprintTable:
    """The memory table: every way to store weights x some models."""

    nominal: int
    models: tuple[Geometry, ...]
    footprints: tuple[Footprint, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Heads of `rows`."""
        weights = f"{self.nominal / 1e9:.3g}e9"
        return ("stored as", "bpw", f"{weights} x bits/8", f"{weights} x bpw/8", *(model.name for model in self.models))

    def rows(self) -> Iterator[tuple[str | None, ...]]:
        """The cells of `columns` in GB (10^9 bytes); of models: with 16-bit embeddings / with everything quantized."""
        for footprint in self.footprints:
            cells: list[str | None] = [
                ", ".join(scheme.name for scheme in footprint.schemes),
                f"{footprint.bpw:.3f}",
                _gb(footprint.naive),
                _gb(footprint.scaled),
            ]
            cells += [sizes and "/".join(map(_gb, sizes)) for sizes in footprint.models.values()]
            yield tuple(cells)

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values, in bytes."""
        return {
            "nominal_weights": self.nominal,
            "models": [{"name": m.name, "weights": m.count, "source": m.source} for m in self.models],
            "schemes": [
                {
                    "schemes": [scheme.name for scheme in f.schemes],
                    "element": f.schemes[0].weight.element,
                    "bits": f.bits,
                    "bpw": f.bpw,
                    "naive_bytes": f.naive,
                    "scaled_bytes": f.scaled,
                    "models": {
                        name: None if sizes is None else {"bytes": sizes[0], "bytes_embeddings_quantized": sizes[1]}
                        for name, sizes in f.models.items()
                    },
                }
                for f in self.footprints
            ],
        }


def footprints(nominal: int, models: tuple[Geometry, ...]) -> FootprintTable:
    """The memory table for ``models``, beside the rule of thumb for ``nominal`` weights; the largest first."""
    alike: dict[Block, list[Scheme]] = {}
    for scheme in SCHEMES.values():
        alike.setdefault(scheme.weight, []).append(scheme)
    rows = [
        Footprint(tuple(schemes), nominal, {model.name: _sizes(model, schemes[0]) for model in models})
        for schemes in alike.values()
    ]
    return FootprintTable(nominal, models, tuple(sorted(rows, key=lambda row: -row.bpw)))


def _sizes(geometry: Geometry, scheme: Scheme) -> tuple[int, int] | None:
    try:
        return model_bytes(geometry, scheme), model_bytes(geometry, scheme, embeddings=True)
    except FormatError:
        return None


def _matrix(parameter: Parameter) -> tuple[int, int]:
    return (1, parameter.count) if len(parameter.shape) == 1 else (parameter.shape[0], parameter.shape[1])


def _bytes(numbers: int, bits: int) -> int:
    return -(-numbers * bits // 8)


def _gb(nbytes: float) -> str:
    return f"{nbytes / 1e9:.2f}"
