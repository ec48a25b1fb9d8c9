"""The statistics file: what a model's linear layers are fed, gathered once and used by every calibrated quantizer.

A safetensors file. Of every fused group G of linear layers, which have one input x, it holds ``G.mean_square`` F32
[in], the mean of x^2 over all tokens, ``G.amax`` F32 [in], the largest |x|, and, if asked for, ``G.hessian`` F32
[in, in], the mean of x x^T; of every attention A ``A.kv_amax`` F32 [2], its largest key and value. A backward pass adds
``M.gradient_square`` F32 [out] of every layer M; `halve calibrate` runs none, extras/torch_stats.py does. The metadata
say which model read which texts. llama.cpp's importance matrix is read as such a file, without ``amax`` and Hessians.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from halve.checkpoint.base import FLOATS, Checkpoint, TensorInfo, read_array
from halve.checkpoint.safetensors import ShardWriter, read_header
from halve.document import json_object
from halve.errors import CheckpointError
from halve.models.fused import fused_group
from halve.pipeline.imatrix import Imatrix, recognised
from halve.schemes.statistics import Statistics

KIND = "halve.statistics"
_OF_INPUTS = (".mean_square", ".amax", ".hessian")
AGAIN = "make it again with `halve calibrate`"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a statistics file tells of itself."""

    model: str  # fingerprint of the model that was run
    tokens: int
    window: int
    texts: list[dict[str, Any]]  # name, sha256, tokens

    @classmethod
    def parse(cls, path: Path, metadata: Mapping[str, str]) -> Self:
        """From the file's metadata. Raises CheckpointError for a file of another kind."""
        try:
            return cls(**json_object(metadata[KIND].encode(), KIND, hint=""))
        except (KeyError, TypeError, CheckpointError):
            raise CheckpointError(f"{path} holds no statistics of activations", hint=AGAIN) from None


def fingerprint(checkpoint: Checkpoint) -> str:
    """What tells a model from its relatives without reading all of it: names, shapes, and the values of its vectors.

    Norms differ between any two trained models; casts to a type that holds them leave the fingerprint as it is.
    """
    digest = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        info = checkpoint.tensors[name]
        digest.update(f"{name}\0{list(info.shape)}\n".encode())
        if len(info.shape) == 1 and info.dtype in FLOATS:
            digest.update(read_array(checkpoint, name).astype(np.float32).tobytes())
    return digest.hexdigest()


def entries(columns: Mapping[str, int], attentions: Iterable[str], *, hessians: bool) -> list[TensorInfo]:
    """The tensors of a file for fused groups of so many inputs, and for attentions."""
    found = [TensorInfo(f"{attention}.kv_amax", "F32", (2,)) for attention in attentions]
    for group, size in columns.items():
        found += [TensorInfo(f"{group}.mean_square", "F32", (size,)), TensorInfo(f"{group}.amax", "F32", (size,))]
        if hessians:
            found.append(TensorInfo(f"{group}.hessian", "F32", (size, size)))
    return found


def writer(path: Path, wanted: Sequence[TensorInfo], facts: Facts) -> ShardWriter:
    """A file of the `entries` ``wanted``, to be filled. Raises OutputError as `ShardWriter` does."""
    return ShardWriter(path, wanted, {KIND: json.dumps(asdict(facts))})


def put(file: ShardWriter, group: str, statistics: Statistics) -> None:
    """Write what is known of the inputs of ``group``."""
    file.write(f"{group}.mean_square", 0, statistics.mean_square.data)
    file.write(f"{group}.amax", 0, statistics.amax.data)
    if statistics.hessian is not None:
        file.write(f"{group}.hessian", 0, statistics.hessian.data)


class _Entries:
    """The tensors of a safetensors file. Raises CheckpointError for a damaged one."""

    def __init__(self, path: Path) -> None:
        header = read_header(path)
        self.metadata = header.metadata
        self.tensors = {name: located.info for name, located in header.tensors.items()}
        self._path = path
        self._begin = {name: header.data_start + located.begin for name, located in header.tensors.items()}

    def read(self, name: str) -> NDArray[np.float32]:
        """The F32 entry ``name``."""
        return np.fromfile(self._path, np.float32, prod(self.tensors[name].shape), offset=self._begin[name])


class StatisticsFile:
    """An open statistics file. Safe to read from several threads.

    Raises CheckpointError for a file that is damaged or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: Imatrix | _Entries
        if recognised(path):
            self._entries = Imatrix(path)
            texts = [{"name": name} for name in self._entries.datasets]
            self.facts = Facts("", self._entries.tokens, self._entries.window, texts)
        else:
            self._entries = _Entries(path)
            self.facts = Facts.parse(path, self._entries.metadata)
        self._tensors = self._entries.tensors
        self._groups = {name.rpartition(".")[0] for name in self._tensors if name.endswith(_OF_INPUTS)}

    @property
    def hessians(self) -> bool:
        """Whether it holds every group's Hessian."""
        inputs = {name.rpartition(".")[0] for name in self._tensors if name.endswith(".mean_square")}
        return all(f"{group}.hessian" in self._tensors for group in inputs)

    @property
    def maxima(self) -> bool:
        """Whether it holds every group's largest inputs."""
        inputs = {name.rpartition(".")[0] for name in self._tensors if name.endswith(".mean_square")}
        return all(f"{group}.amax" in self._tensors for group in inputs)

    @property
    def sha256(self) -> str:
        """Hash of the whole file: given it, quantizing is byte-deterministic."""
        with self.path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()

    def check(self, checkpoint: Checkpoint) -> None:
        """Raise CheckpointError where these are the statistics of another model than ``checkpoint``."""
        if self.facts.model and self.facts.model != fingerprint(checkpoint):
            raise CheckpointError(
                f"{self.path} holds the statistics of another model than {checkpoint.path}", hint=AGAIN
            )
        if not any(self._group(tensor) for tensor in checkpoint.tensors):
            raise CheckpointError(f"{self.path} knows no layer of {checkpoint.path}", hint=AGAIN)

    def of(self, tensor: str, columns: int) -> Statistics | None:
        """What is known of the inputs of the linear layer with weight ``tensor`` [out, columns]; None: nothing.

        Raises CheckpointError for values that are no statistics of such a layer.
        """
        group = self._group(tensor)
        if group is None:
            return None
        mean_square, amax = self._read(f"{group}.mean_square", (columns,)), self._read(f"{group}.amax", (columns,))
        if mean_square is None or (mean_square < 0).any() or (amax is not None and (amax < 0).any()):
            raise CheckpointError(f"{self.path}: {group} has no mean squares, or negative ones", hint=AGAIN)
        return Statistics(
            mean_square=mean_square,
            amax=np.sqrt(mean_square) if amax is None else amax,
            hessian=self._read(f"{group}.hessian", (columns, columns)),
            count=self.facts.tokens,
        )

    def kv_amax(self) -> dict[str, tuple[float, float]]:
        """The largest key and the largest value of every attention; empty where they were not gathered."""
        names = [name for name in self._tensors if name.endswith(".kv_amax")]
        found = {name.removesuffix(".kv_amax"): self._read(name, (2,)) for name in names}
        return {name: (float(amax[0]), float(amax[1])) for name, amax in found.items() if amax is not None}

    def gradient_square(self, tensor: str, rows: int) -> NDArray[np.float32] | None:
        """How much each output of the layer with weight ``tensor`` [rows, in] matters to the model's loss.

        The mean square of the loss's derivative by it, where a backward pass has been run; else None.
        """
        return self._read(f"{tensor.removesuffix('.weight')}.gradient_square", (rows,))

    def largest(self, leaf: str) -> float:
        """The largest input that any layer called ``leaf`` has had; 0 where there is none."""
        of_leaf = {leaf, fused_group(f"x.{leaf}").rpartition(".")[2]}
        amax = [
            self._read(f"{group}.amax", self._tensors[f"{group}.amax"].shape)
            for group in self._groups
            if group.rpartition(".")[2] in of_leaf and f"{group}.amax" in self._tensors
        ]
        return max((float(values.max()) for values in amax if values is not None), default=0.0)

    def _group(self, tensor: str) -> str | None:
        """Under which name the file knows the inputs of the layer with weight ``tensor``."""
        names = (tensor.removesuffix(".weight"), fused_group(tensor))
        return next((name for name in names if name in self._groups), None)

    def _read(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
        info = self._tensors.get(name)
        if info is None:
            return None
        if info.dtype != "F32" or info.shape != shape:
            raise CheckpointError(
                f"{self.path}: {name} is {info.dtype} {list(info.shape)}, the model needs F32 {list(shape)}", hint=AGAIN
            )
        values = self._entries.read(name).reshape(shape)
        if not np.isfinite(values).all():
            raise CheckpointError(f"{self.path}: {name} is not finite", hint=AGAIN)
        return values
