"""A quantized checkpoint seen as plain numbers."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from halve.checkpoint.base import Checkpoint, TensorInfo
from halve.checkpoint.place import Place
from halve.layouts.base import Layout, as_bytes, owners
from halve.pipeline.workers import BAND_ROWS
from halve.schemes.quantize import dequantize


class Dequantized:
    """``checkpoint`` with its quantized weights in FP32 under the names they had. Implements ``Checkpoint``.

    Raises CheckpointError where config and tensors contradict each other.
    """

    quantization: dict[str, Any] | None = None

    def __init__(self, checkpoint: Checkpoint, layout: Layout) -> None:
        self.path: Place = checkpoint.path
        self.files = checkpoint.files
        self.config = {key: value for key, value in checkpoint.config.items() if key != "quantization_config"}
        self.checkpoint = checkpoint
        self.layout = layout
        self.weights = layout.open(checkpoint)
        owned = owners(self.weights.values())
        tensors: dict[str, TensorInfo] = {}
        for name, info in checkpoint.tensors.items():
            if name not in owned:
                tensors[name] = info
            for stored in owned.get(name, ()):
                tensors.setdefault(stored.name, TensorInfo(stored.name, "F32", stored.shape))
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(tensors)

    def read(self, name: str, start: int, stop: int, buffer: memoryview) -> memoryview:
        """Fill ``buffer`` with rows ``start..stop`` of tensor ``name``; return the part filled."""
        stored = self.weights.get(name)
        if stored is None:
            return self.checkpoint.read(name, start, stop, buffer)
        first = start // BAND_ROWS * BAND_ROWS
        q = self.layout.read(self.checkpoint, stored, first, stop)
        data = as_bytes(np.ascontiguousarray(dequantize(q)[start - first :]))
        buffer[: len(data)] = data
        return buffer[: len(data)]

    def stored(self, name: str) -> tuple[str, int]:
        """Type and bytes that ``name`` has in its file."""
        stored = self.weights.get(name)
        if stored is None:
            return self.checkpoint.stored(name)
        return stored.block.element, sum(self.checkpoint.tensors[entry].nbytes for entry in stored.entries)

    def release(self, name: str) -> None:
        """Let the pages of ``name`` leave the page cache."""
        stored = self.weights.get(name)
        for entry in (name,) if stored is None else stored.entries:
            self.checkpoint.release(entry)

    def auxiliary(self) -> dict[str, bytes]:
        """The files that travel with the weights."""
        return self.checkpoint.auxiliary()

    def close(self) -> None:
        """Close the files."""
        self.checkpoint.close()
