"""Experts that lie in one tensor a layer, seen as a matrix each, by the names that engines look for.

| stored | seen |
|---|---|
| ``P.experts.gate_up_proj`` [E, 2*I, H] | ``P.experts.<e>.gate_proj.weight`` and ``up_proj.weight`` [I, H] |
| ``P.experts.down_proj`` [E, H, I] | ``P.experts.<e>.down_proj.weight`` [H, I] |

Either may be stored transposed, [E, H, 2*I] and [E, I, H]; what is seen is [out, in] always. The names are those that
vLLM 0.32 maps to its fused experts (`build_expert_params_mapping`), for quantized tensors too
(``experts.0.gate_proj.weight_packed``), and that llm-compressor writes. Biases [E, out] are seen as they are stored.

A checkpoint reads rows of the leading dimension, so that an expert's matrix is read whole: each thread keeps the one
that it read last, at most the largest of the checkpoint, and goes through its rows and its parts from there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from threading import Lock, local
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from halve.checkpoint.base import DTYPES, FLOATS, Checkpoint, TensorInfo
from halve.checkpoint.place import Place
from halve.errors import CheckpointError

# Rows of a stored matrix that are transposed at once, from a copy of them: where a row's bytes are a power of two, a
# column read in place falls into the same few lines of the cache, which is 12 times slower.
_TILE = 128


class Stack(Protocol):
    """A tensor of all experts of a layer, as `halve.models.arch.Stack` describes it."""

    @property
    def tensor(self) -> str:
        """Its name."""
        ...

    @property
    def transposed(self) -> bool:
        """Whether it is [experts, in, out] rather than [experts, out, in]."""
        ...

    @property
    def parts(self) -> tuple[str, ...]:
        """What the rows of each expert are, one after another, equally many each."""
        ...

    def weight(self, expert: int, part: str) -> str:
        """Name of a part's weight."""
        ...


@dataclass(frozen=True, slots=True)
class _Part:
    """Where a weight lies: rows from ``first_row`` on of one expert's matrix in the tensor ``stack``."""

    stack: TensorInfo
    transposed: bool
    expert: int
    first_row: int


class _Matrix(local):
    """The matrix that a thread has read last."""

    def __init__(self) -> None:
        self._held = ("", -1)
        self._bytes: NDArray[np.uint8] = np.empty(0, np.uint8)

    def read(self, checkpoint: Checkpoint, stack: TensorInfo, expert: int) -> NDArray[Any]:
        """One expert's matrix as it is stored, in unsigned integers, which NumPy copies fast; valid until the next."""
        if len(self._bytes) < stack.row_bytes:
            self._bytes = np.empty(stack.row_bytes, np.uint8)
            self._held = ("", -1)
        data = self._bytes[: stack.row_bytes]
        if self._held != (stack.name, expert):
            self._held = ("", -1)  # should reading fail
            checkpoint.read(stack.name, expert, expert + 1, data.data)
            self._held = stack.name, expert
        return data.view(f"u{DTYPES[stack.dtype].itemsize}").reshape(stack.shape[1:])


class UnpackedExperts:
    """``checkpoint`` with the experts of ``stacks`` as a matrix each. Implements ``Checkpoint``.

    Stacks of a type that cannot be quantized stay as they are. Raises CheckpointError where an expert is there twice.
    """

    def __init__(self, checkpoint: Checkpoint, stacks: Iterable[Stack]) -> None:
        self.path: Place = checkpoint.path
        self.config: dict[str, Any] = checkpoint.config
        self.files = checkpoint.files
        self.quantization = checkpoint.quantization
        self._checkpoint = checkpoint
        self._matrix = _Matrix()
        self._lock = Lock()
        self._parts: dict[str, _Part] = {}
        self._unread: dict[str, set[str]] = {}  # of each stack
        by_tensor = {stack.tensor: stack for stack in stacks}
        tensors: dict[str, TensorInfo] = {}
        for name, info in checkpoint.tensors.items():
            stack = by_tensor.get(name)
            if stack is None or info.dtype not in FLOATS:
                tensors[name] = info
            else:
                tensors |= self._unpacked(stack, info)
        if twice := self._parts.keys() & checkpoint.tensors.keys():
            name = min(twice)
            raise CheckpointError(
                f"{self.path}: {name} is there by itself and as a part of {self._parts[name].stack.name}",
                hint="the files of two models are in this folder: fetch it again",
            )
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(tensors)

    def read(self, name: str, start: int, stop: int, buffer: memoryview) -> memoryview:
        """Fill ``buffer`` with rows ``start..stop`` of tensor ``name``; return the part filled."""
        part = self._parts.get(name)
        if part is None:
            return self._checkpoint.read(name, start, stop, buffer)
        info = self.tensors[name]
        filled = buffer.cast("B")[: (stop - start) * info.row_bytes]
        if not 0 <= start <= stop <= info.rows or len(filled) != (stop - start) * info.row_bytes:
            raise ValueError(f"rows {start} to {stop} of {name}, which has {info.rows}, into {len(buffer)} elements")
        matrix = self._matrix.read(self._checkpoint, part.stack, part.expert)
        rows = slice(part.first_row + start, part.first_row + stop)
        out = np.frombuffer(filled, matrix.dtype).reshape(stop - start, info.columns)
        if part.transposed:
            for first in range(0, info.columns, _TILE):
                out[:, first : first + _TILE] = matrix[first : first + _TILE, rows].copy().T
        else:
            out[...] = matrix[rows]
        return filled

    def stored(self, name: str) -> tuple[str, int]:
        """Type and bytes that ``name`` has in its file."""
        part = self._parts.get(name)
        if part is None:
            return self._checkpoint.stored(name)
        dtype, nbytes = self._checkpoint.stored(part.stack.name)
        return dtype, nbytes * self.tensors[name].nbytes // part.stack.nbytes

    def matrix_bytes(self, name: str) -> int:
        """Bytes of the matrix that a thread holds while it reads ``name``; 0 where that is no part of a stack."""
        part = self._parts.get(name)
        return 0 if part is None else part.stack.row_bytes

    def release(self, name: str) -> None:
        """Let the pages of ``name`` leave the page cache; those of a stack once none of its parts will be read."""
        part = self._parts.get(name)
        if part is None:
            self._checkpoint.release(name)
            return
        with self._lock:
            unread = self._unread[part.stack.name]
            unread.discard(name)
            last = not unread
        if last:
            self._checkpoint.release(part.stack.name)

    def auxiliary(self) -> dict[str, bytes]:
        """The files that travel with the weights."""
        return self._checkpoint.auxiliary()

    def close(self) -> None:
        """Close the files."""
        self._checkpoint.close()

    def _unpacked(self, stack: Stack, info: TensorInfo) -> dict[str, TensorInfo]:
        """The weights in ``stack``, in the order of its data where that is one."""
        experts, *matrix = info.shape
        out, columns = reversed(matrix) if stack.transposed else matrix
        rows = out // len(stack.parts)
        found = {}
        for expert in range(experts):
            for index, part in enumerate(stack.parts):
                name = stack.weight(expert, part)
                found[name] = TensorInfo(name, info.dtype, (rows, columns))
                self._parts[name] = _Part(info, stack.transposed, expert, index * rows)
        self._unread[info.name] = set(found)
        return found
