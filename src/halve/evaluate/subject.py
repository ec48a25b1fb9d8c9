"""What is measured: a checkpoint's scheme, size and quantized layers, read without any weight."""

from collections import Counter
from dataclasses import dataclass

from halve import layouts
from halve.checkpoint import manifest
from halve.checkpoint.base import FLOATS, Checkpoint
from halve.checkpoint.gguf_checkpoint import GgufCheckpoint
from halve.checkpoint.place import Place
from halve.checkpoint.source import open_checkpoint
from halve.layouts.base import Stored, kv_scales, module, owners
from halve.models.linear import why_kept
from halve.schemes import Scheme


@dataclass(frozen=True, slots=True)
class Quantized:
    """A quantized linear layer: its scheme, how many inputs it has, and the scale of static ones where it is stored."""

    scheme: Scheme
    columns: int
    input_scale: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A checkpoint, as far as its headers tell."""

    path: Place
    scheme: str  # as the weights are stored, or as halve.json names it; empty where neither says
    element: str  # number format of most linear layers
    bytes: int  # of the weight files
    bpw: float | None  # bits per weight of linear layers, scales included; None: a GGUF file, whose blocks are decoded
    quantized: dict[str, Quantized]  # by module
    kv_scales: dict[str, tuple[float, float]]  # of keys and of values, by attention module

    @property
    def label(self) -> str:
        """What to call it: its scheme, or the format of its weights."""
        return self.scheme or self.element


def describe(path: str | Place) -> Subject:
    """Read the headers of the checkpoint ``path`` (folder, GGUF file or ``org/name[@revision]``).

    Raises CheckpointError where it cannot be opened, or where config and tensors contradict each other.
    """
    checkpoint = open_checkpoint(path)
    try:
        return _describe(checkpoint)
    finally:
        checkpoint.close()


def _describe(checkpoint: Checkpoint) -> Subject:
    layout = layouts.detect(checkpoint)
    stored = {} if checkpoint.quantization is None else layout.open(checkpoint)
    folder = not isinstance(checkpoint, GgufCheckpoint)
    written = manifest.read(checkpoint.path) if checkpoint.path.is_dir() else None
    element, bpw = _width(checkpoint, stored)
    return Subject(
        path=checkpoint.path,
        scheme=_names(stored) or (str(written.scheme.get("name", "")) if written else ""),
        element=element if folder else "gguf",
        bytes=sum(file.stat().st_size for file in checkpoint.files),
        bpw=bpw if folder else None,
        quantized={
            module(name): Quantized(weight.scheme, weight.shape[1], layout.input_scale(checkpoint, weight))
            for name, weight in stored.items()
        },
        kv_scales=kv_scales(checkpoint),
    )


def _names(stored: dict[str, Stored]) -> str:
    """The schemes of quantized weights, the most frequent first."""
    return " + ".join(name for name, _ in Counter(w.scheme.name for w in stored.values()).most_common() if name)


def _width(checkpoint: Checkpoint, stored: dict[str, Stored]) -> tuple[str, float]:
    """Number format of most linear layers, and their bits per weight: of the quantized ones where there are any."""
    tensors = checkpoint.tensors
    if stored:
        elements = Counter(weight.block.element for weight in stored.values())
        nbytes = sum(tensors[entry].nbytes for entry in owners(stored.values()))
        return elements.most_common(1)[0][0], 8 * nbytes / sum(rows * columns for rows, columns in _shapes(stored))
    linears = [info for name, info in tensors.items() if not why_kept(name, len(info.shape))] or list(tensors.values())
    dtypes = Counter(info.dtype for info in linears)
    nbytes = sum(info.nbytes for info in linears)
    dtype = dtypes.most_common(1)[0][0]
    return FLOATS.get(dtype, dtype.lower()), 8 * nbytes / sum(info.rows * info.columns for info in linears)


def _shapes(stored: dict[str, Stored]) -> list[tuple[int, int]]:
    return [weight.shape for weight in stored.values()]
