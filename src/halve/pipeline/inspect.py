"""What is in a checkpoint: tensors, sizes, and how they are stored."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, ClassVar

from halve import layouts
from halve.checkpoint.base import DTYPES
from halve.checkpoint.source import open_checkpoint
from halve.models.linear import why_kept


@dataclass(frozen=True, slots=True)
class InspectedTensor:
    """A weight by the name and shape that the model gives it, and the tensors in which it is stored."""

    name: str
    shape: tuple[int, ...]
    stored: tuple[str, ...]  # "name DTYPE [shape]"
    bytes: int
    bpw: float
    quantized: bool
    note: str  # why quantizing would leave it alone


@dataclass(frozen=True, slots=True)
class InspectResult:
    """What `inspect` found."""

    path: Path
    architecture: str
    layout: str
    element: str  # number format of the quantized weights; empty where there are none
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

    columns: ClassVar[tuple[str, ...]] = ("tensor", "shape", "stored as", "bytes", "bpw", "note")

    def rows(self) -> Iterator[tuple[str | int, ...]]:
        """The cells of `columns`, a row a weight."""
        for t in self.tensors:
            dtypes = " + ".join(text.split()[1] for text in t.stored)
            yield t.name, "x".join(map(str, t.shape)), dtypes, t.bytes, f"{t.bpw:.2f}", t.note

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "path": str(self.path),
            "architecture": self.architecture,
            "layout": self.layout,
            "element": self.element,
            "parameters": self.parameters,
            "bytes": self.bytes,
            "bpw": round(self.bpw, 4),
            "tensors": [
                {
                    "name": t.name,
                    "shape": list(t.shape),
                    "stored": list(t.stored),
                    "bytes": t.bytes,
                    "bpw": round(t.bpw, 4),
                    "quantized": t.quantized,
                    "note": t.note,
                }
                for t in self.tensors
            ],
        }


def inspect(path: str | Path) -> InspectResult:
    """List the tensors of a checkpoint (folder, GGUF file or ``org/name[@revision]``) without reading any weight.

    Raises CheckpointError where it cannot be opened, or where config and tensors contradict each other.
    """
    checkpoint = open_checkpoint(path)
    try:
        layout = layouts.detect(checkpoint)
        quantized = layout.open(checkpoint)
        owned = {entry for weight in quantized.values() for entry in weight.entries}
        shapes: dict[str, tuple[int, ...]] = {name: weight.shape for name, weight in quantized.items()}
        shapes |= {name: info.shape for name, info in checkpoint.tensors.items() if name not in owned}
        tensors = []
        for name, shape in sorted(shapes.items()):
            entries = quantized[name].entries if name in quantized else (name,)
            parts = [(entry, *checkpoint.stored(entry), checkpoint.tensors[entry].shape) for entry in entries]
            size = sum(nbytes for _, _, nbytes, _ in parts)
            blocks = name not in quantized and parts[0][1] not in DTYPES  # a block type of llama.cpp
            tensors.append(
                InspectedTensor(
                    name=name,
                    shape=shape,
                    stored=tuple(f"{entry} {dtype} {list(part)}" for entry, dtype, _, part in parts),
                    bytes=size,
                    bpw=8 * size / max(prod(shape), 1),
                    quantized=blocks or name in quantized,
                    note="" if name in quantized else why_kept(name, len(shape)),
                )
            )
        elements = Counter(weight.block.element for weight in quantized.values())
        elements.update(t.stored[0].split()[1] for t in tensors if t.quantized and t.name not in quantized)
        architectures = checkpoint.config.get("architectures")
        return InspectResult(
            path=checkpoint.path,
            architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "unknown",
            layout="gguf" if checkpoint.path.suffix == ".gguf" else layout.name,
            element=elements.most_common(1)[0][0] if elements else "",
            tensors=tuple(tensors),
        )
    finally:
        checkpoint.close()
