"""A checkpoint seen through a folding: its tensors as they become, band by band."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from halve.checkpoint.base import DTYPES, FLOATS, Checkpoint, TensorInfo
from halve.checkpoint.place import Place
from halve.transforms.folding import Folding


class Folded:
    """``checkpoint`` with the matrices that ``folding`` changes in FP32, and vectors in their own type.

    Implements ``Checkpoint``.
    """

    def __init__(self, checkpoint: Checkpoint, folding: Folding) -> None:
        self.path: Place = checkpoint.path
        self.files = checkpoint.files
        self.config: dict[str, Any] = checkpoint.config
        self.quantization = checkpoint.quantization
        self._checkpoint = checkpoint
        self._folding = folding
        self._changed = {
            name
            for name, info in checkpoint.tensors.items()
            if name in folding.tensors and info.dtype in FLOATS and len(info.shape) <= 2
        }
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(
            {
                name: TensorInfo(name, "F32", info.shape) if name in self._changed and len(info.shape) > 1 else info
                for name, info in checkpoint.tensors.items()
            }
        )

    def read(self, name: str, start: int, stop: int, buffer: memoryview) -> memoryview:
        """Fill ``buffer`` with rows ``start..stop`` of tensor ``name``; return the part filled."""
        if name not in self._changed:
            return self._checkpoint.read(name, start, stop, buffer)
        info, source = self.tensors[name], self._checkpoint.tensors[name]
        raw = np.empty((stop - start) * source.row_bytes, np.uint8)
        self._checkpoint.read(name, start, stop, raw.data)
        band = raw.view(DTYPES[source.dtype]).astype(np.float32).reshape(stop - start, source.columns)
        filled = buffer.cast("B")[: (stop - start) * info.row_bytes]
        out = np.frombuffer(filled, DTYPES[info.dtype]).reshape(band.shape)
        out[...] = self._folding.apply(name, band, start)
        return filled

    def stored(self, name: str) -> tuple[str, int]:
        """Type and bytes that ``name`` has in its file."""
        return self._checkpoint.stored(name)

    def release(self, name: str) -> None:
        """Let the pages of ``name`` leave the page cache."""
        self._checkpoint.release(name)

    def auxiliary(self) -> dict[str, bytes]:
        """The files that travel with the weights."""
        return self._checkpoint.auxiliary()

    def close(self) -> None:
        """Close the files."""
        self._checkpoint.close()
