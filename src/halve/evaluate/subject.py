"""What is measured: a checkpoint's scheme, size and quantized layers, read without any weight."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from halve import layouts
from halve.checkpoint import manifest
from halve.checkpoint.base import FLOATS, Checkpoint
from halve.checkpoint.hf import HfCheckpoint
from halve.checkpoint.source import open_checkpoint
from halve.layouts.base import Stored, module
from halve.models.linear import why_kept
from halve.schemes import Block


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A checkpoint, as far as its headers tell."""

    path: Path
    scheme: str  # as halve.json names it; empty where there is none
    element: str  # number format of most linear layers
    bytes: int  # of the weight files
    bpw: float | None  # bits per weight of linear layers, scales included; None: a GGUF file, whose blocks are decoded
    blocks: dict[str, Block]  # of quantized modules
    columns: dict[str, int]  # of quantized modules: how many inputs they have

    @property
    def label(self) -> str:
        """What to call it: its scheme, or the format of its weights."""
        return self.scheme or self.element


def describe(path: str | Path) -> Subject:
    """Read the headers of the checkpoint ``path`` (folder, GGUF file or ``org/name[@revision]``).

    Raises CheckpointError where it cannot be opened, or where config and tensors contradict each other.
    """
    checkpoint = open_checkpoint(path)
    try:
        return _describe(checkpoint)
    finally:
        checkpoint.close()


def _describe(checkpoint: Checkpoint) -> Subject:
    stored = {} if checkpoint.quantization is None else layouts.detect(checkpoint).open(checkpoint)
    folder = isinstance(checkpoint, HfCheckpoint)
    written = manifest.read(checkpoint.path) if folder else None
    files = checkpoint.files if isinstance(checkpoint, HfCheckpoint) else (checkpoint.path,)
    element, bpw = _width(checkpoint, stored)
    return Subject(
        path=checkpoint.path,
        scheme=str(written.scheme.get("name", "")) if written else "",
        element=element if folder else "gguf",
        bytes=sum(file.stat().st_size for file in files),
        bpw=bpw if folder else None,
        blocks={module(name): weight.block for name, weight in stored.items()},
        columns={module(name): weight.shape[1] for name, weight in stored.items()},
    )


def _width(checkpoint: Checkpoint, stored: dict[str, Stored]) -> tuple[str, float]:
    """Number format of most linear layers, and their bits per weight: of the quantized ones where there are any."""
    tensors = checkpoint.tensors
    if stored:
        elements = Counter(weight.block.element for weight in stored.values())
        nbytes = sum(tensors[entry].nbytes for weight in stored.values() for entry in weight.entries)
        return elements.most_common(1)[0][0], 8 * nbytes / sum(rows * columns for rows, columns in _shapes(stored))
    linears = [info for name, info in tensors.items() if not why_kept(name, len(info.shape))] or list(tensors.values())
    dtypes = Counter(info.dtype for info in linears)
    nbytes = sum(info.nbytes for info in linears)
    dtype = dtypes.most_common(1)[0][0]
    return FLOATS.get(dtype, dtype.lower()), 8 * nbytes / sum(info.rows * info.columns for info in linears)


def _shapes(stored: dict[str, Stored]) -> list[tuple[int, int]]:
    return [weight.shape for weight in stored.values()]
