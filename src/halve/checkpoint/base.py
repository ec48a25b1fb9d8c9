"""What every checkpoint offers, whatever file it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from halve.checkpoint.place import Place

# safetensors' dtype names -> numpy dtype of one stored element (sub-byte types are not in any model we read)
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "F32": np.dtype(np.float32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F64": np.dtype(np.float64),
    "C64": np.dtype(np.complex64),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}
FLOATS = {"F32": "fp32", "BF16": "bf16", "F16": "fp16"}  # dtypes that can be quantized -> their number format


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a checkpoint: its name, safetensors dtype name and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Length of the leading dimension; a scalar has one row."""
        return self.shape[0] if self.shape else 1

    @property
    def columns(self) -> int:
        """Elements of one row."""
        return prod(self.shape[1:])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.columns * DTYPES[self.dtype].itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.rows * self.row_bytes


class Checkpoint(Protocol):
    """A stored model, read by row ranges. Safe to read from several threads at once."""

    config: dict[str, Any]

    @property
    def path(self) -> Place:
        """Where it lies."""
        ...

    @property
    def quantization(self) -> dict[str, Any] | None:
        """How the weights say they are quantized; None where they are plain numbers, or are read as such."""
        ...

    @property
    def files(self) -> tuple[Place, ...]:
        """The weight files."""
        ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Its tensors by name, in the order in which their data lies."""
        ...

    def read(self, name: str, start: int, stop: int, buffer: memoryview) -> memoryview:
        """Fill ``buffer`` with rows ``start..stop`` of tensor ``name``; return the part filled.

        Raises CheckpointError where the file ends early or cannot be read.
        """
        ...

    def stored(self, name: str) -> tuple[str, int]:
        """Type and bytes that tensor ``name`` has in its file: a GGUF block type may stand behind a BF16 tensor."""
        ...

    def release(self, name: str) -> None:
        """Say that ``name`` will not be read again, so that its pages may leave the page cache."""
        ...

    def auxiliary(self) -> dict[str, bytes]:
        """Files that travel with the weights, except config.json: name -> content (tokenizer, chat template ...)."""
        ...

    def close(self) -> None:
        """Close the files."""
        ...


def read_array(checkpoint: Checkpoint, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
    """Rows ``start..stop`` of a tensor as a new array of its stored dtype and shape."""
    info = checkpoint.tensors[name]
    stop = info.rows if stop is None else stop
    buffer = np.empty((stop - start) * info.row_bytes, np.uint8)
    checkpoint.read(name, start, stop, buffer.data)
    return buffer.view(DTYPES[info.dtype]).reshape((stop - start, *info.shape[1:]) if info.shape else ())
