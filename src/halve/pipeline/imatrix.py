"""llama.cpp's importance matrix, as a source of statistics: the mean square of what each layer is fed.

`llama-imatrix` writes a GGUF file with ``general.type = "imatrix"``. Of every matrix N of the model it holds two F32
tensors: ``N.in_sum2`` [in], the sum of x^2 over tokens, and ``N.counts`` [1], how many tokens they were; of a stack of
experts [experts, in] and [experts, 1]. There are no Hessians and no largest inputs. Facts read from llama.cpp's
tools/imatrix/imatrix.cpp and common/imatrix-loader.cpp.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halve.checkpoint.base import TensorInfo
from halve.checkpoint.gguf import MAGIC, GgufFile
from halve.checkpoint.gguf_llama import hf_module
from halve.checkpoint.storage import FileReader
from halve.errors import CheckpointError
from halve.models.fused import fused_group

KIND = "imatrix"
AGAIN = "make it again with `llama-imatrix`, or gather statistics with `halve calibrate`"
_SUMS, _COUNTS = ".in_sum2", ".counts"
_EXPERTS = re.compile(r"blk\.(0|[1-9]\d{0,8})\.ffn_(gate|up|down)_(exps|shexp)")
_MIXTRAL = {"gate": "w1", "up": "w3", "down": "w2"}
_HEAD = 32
_LEGACY = re.compile(rb"blk\.\d+\.|output\.|token_embd\.")  # its first name, after two 32-bit numbers


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums of squares of ``columns`` inputs over ``count`` tokens, and where in the file they lie."""

    offset: int
    columns: int
    count: float


class Imatrix:
    """The entries of an importance matrix under the names of a statistics file: ``G.mean_square`` of a fused group G.

    An expert that no token reached is left out. Raises CheckpointError for a file that is damaged, or another GGUF.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with GgufFile(path) as file:
            kind = file.metadata.text("general.type", "model")
            if kind != KIND:
                raise CheckpointError(
                    f"{path} is a GGUF file of type {kind!r}, not an importance matrix",
                    hint="make one from the model: llama-imatrix -m MODEL.gguf -f TEXT -o imatrix.gguf",
                )
            self._sums = {
                f"{fused_group(module)}.mean_square": sums
                for name in file.tensors
                if name.endswith(_SUMS)
                for module, sums in _read(file, name.removesuffix(_SUMS))
            }
            self.window = file.metadata.integer("imatrix.chunk_size", 0)
            self.datasets = file.metadata.texts("imatrix.datasets") if "imatrix.datasets" in file.metadata else []
        if not self._sums:
            raise CheckpointError(f"{path} holds statistics of no layer that halve knows by name", hint=AGAIN)
        self.tokens = int(max(sums.count for sums in self._sums.values()))
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(name, "F32", (sums.columns,)) for name, sums in self._sums.items()
        }

    def read(self, name: str) -> NDArray[np.float32]:
        """The entry ``name``."""
        found = self._sums[name]
        sums = np.fromfile(self.path, np.float32, found.columns, offset=found.offset)
        return sums / np.float32(found.count)


def _read(file: GgufFile, matrix: str) -> Iterator[tuple[str, _Sums]]:
    """What is told of the GGUF tensor ``matrix``: of each module that it may be, the sums."""
    sums, counts = file.tensors[matrix + _SUMS], file.tensors.get(matrix + _COUNTS)
    if counts is None or not sums.encoding.name == counts.encoding.name == "F32" or len(sums.shape) > 2:
        raise CheckpointError(f"{file.path}: {matrix} has no sums and counts of one kind in F32", hint=AGAIN)
    found = np.empty(prod(counts.shape), np.float32)
    file.read_rows(counts, 0, found.data.cast("B"))
    columns = sums.shape[-1]
    rows = prod(sums.shape) // columns
    if len(found) not in (1, rows) or not np.isfinite(found).all() or (found < 0).any():
        raise CheckpointError(f"{file.path}: {matrix}{_COUNTS} are no numbers of tokens of {rows} matrices", hint=AGAIN)
    for row, count in enumerate(np.broadcast_to(found, rows).tolist()):
        for module in _modules(matrix.removesuffix(".weight"), row) if count else ():
            yield module, _Sums(sums.offset + 4 * columns * row, columns, count)


def recognised(path: Path) -> bool:
    """Whether ``path`` is a GGUF file. Raises CheckpointError for an importance matrix of the format before GGUF."""
    with FileReader(path) as file:
        head = file.read(0, min(file.size, _HEAD))
    if _LEGACY.match(head, 8):
        raise CheckpointError(
            f"{path} is an importance matrix in llama.cpp's old format",
            hint=f"convert it: llama-imatrix --in-file {path.name} -o {path.stem}.gguf",
        )
    return head.startswith(MAGIC)


def _modules(stem: str, row: int) -> list[str]:
    """The modules that matrix ``row`` of the GGUF tensor ``stem`` may be: families name experts differently."""
    match = _EXPERTS.fullmatch(stem)
    if match is None:
        module = hf_module(stem)
        return [] if module is None else [module]
    layer, part, kind = f"model.layers.{match[1]}", match[2], match[3]
    if kind == "shexp":
        return [f"{layer}.mlp.{parent}.{part}_proj" for parent in ("shared_expert", "shared_experts")]
    return [f"{layer}.mlp.experts.{row}.{part}_proj", f"{layer}.block_sparse_moe.experts.{row}.{_MIXTRAL[part]}"]
