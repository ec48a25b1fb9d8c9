"""What a layout is: names, byte order, stored scale types and config of quantized weights on disk. Nothing else."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from halve.checkpoint.base import DTYPES, Checkpoint, TensorInfo, read_array
from halve.checkpoint.hf import INDEX, SINGLE
from halve.checkpoint.place import Place
from halve.checkpoint.safetensors import ShardWriter, file_bytes
from halve.errors import CheckpointError, UnsupportedError
from halve.schemes import Block, Scheme
from halve.schemes.qtensor import QTensor

CONFIG = "config.json"
METADATA = {"format": "pt"}  # transformers refuses weight files that do not say so


@dataclass(frozen=True, slots=True)
class Support:
    """What a layout says of a scheme.

    ``refused`` is why it cannot hold it, ``lossy`` what it stores with less precision than the scheme's row has; both
    are empty where that is not so. ``engines`` load the result: what was run, or read in their source.
    """

    refused: str = ""
    lossy: str = ""
    engines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """A quantized weight found in a checkpoint: the name and shape it had, its scheme, and the tensors it lies in."""

    name: str
    shape: tuple[int, int]
    scheme: Scheme
    entries: tuple[str, ...]

    @property
    def block(self) -> Block:
        """How the weight is stored."""
        return self.scheme.weight


@dataclass(frozen=True, slots=True)
class Contents:
    """A whole model about to be written."""

    config: dict[str, Any]  # the source's config.json, without its quantization_config
    auxiliary: dict[str, bytes]  # tokenizer files and the like
    quantized: dict[str, Scheme]  # module -> its scheme, bound
    kept: list[str]  # linear modules in 16 bits; the output head of a tied model is one of them
    kv: bool = False  # whether keys and values are to be cached in FP8, under scales of their own


class WeightFile(Protocol):
    """A file of weights in the making, as `ShardWriter` is one; it has its name once it is finished."""

    path: Place
    entries: tuple[TensorInfo, ...]
    nbytes: int  # of the whole file

    def write(self, name: str, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put ``data`` at byte ``offset`` of entry ``name``: any thread, any order."""
        ...

    def restore(self, name: str, offset: int, nbytes: int) -> None:
        """Count ``nbytes`` bytes at byte ``offset`` of entry ``name`` as written: by a job that was interrupted."""
        ...

    def finish(self) -> None:
        """Bring the file to the disk under its name. Raises OutputError where bytes are missing or the disk fails."""
        ...

    def sync(self) -> None:
        """Bring what has been written to the disk. Raises OutputError where the disk fails."""
        ...

    def suspend(self) -> None:
        """Close the file, and leave what is written to a later job."""
        ...

    def discard(self) -> None:
        """Remove what is unfinished."""
        ...


class Layout(ABC):
    """One way to store quantized weights. A file in this package holds one, as ``LAYOUT``.

    The job calls, in this order: `supports` and `bind` before any byte is read, `entries` and `kept` while planning,
    `weight_files`, then `write` or `copy` for every band of rows, and `files` at the end. Readers call `detect`, then
    `open` and `read`.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    linear_only: ClassVar[bool] = True  # whether engines expect embeddings in 16 bits
    whole_experts: ClassVar[bool] = False  # whether engines read experts one by one whose gate and up are one weight
    shards_alone: ClassVar[bool] = True  # whether a weight file depends on its own entries only, not on other files
    strips: ClassVar[bool] = False  # whether matrices are turned on their way to the file, a strip in memory at a time
    model_types: ClassVar[tuple[str, ...]] = ()  # of config.json, where engines look for this layout in no other

    @abstractmethod
    def supports(self, scheme: Scheme) -> Support:
        """Whether this layout holds ``scheme``, at what loss, and who loads it."""

    def bind(self, scheme: Scheme, dtype: str) -> Scheme:
        """``scheme`` with its scales in the type that this layout stores, for a checkpoint of ``dtype`` (BF16, ...).

        Codes are chosen under the stored scale, so that what is written is what was optimised.
        """
        del dtype
        return scheme

    @abstractmethod
    def entries(self, weight: TensorInfo, scheme: Scheme) -> list[TensorInfo]:
        """The tensors that ``weight`` becomes, in file order. Raises FormatError for columns that do not fit."""

    @abstractmethod
    def write(
        self, weight: TensorInfo, scheme: Scheme, q: QTensor, first_row: int, input_scale: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """Bytes of a band of rows that starts at ``first_row``: entry name -> array.

        Bands come in order, start at multiples of 128 rows, and what they give for an entry is simply appended; what
        belongs to the tensor as a whole comes with the first band. ``input_scale`` is the scale (a value) of static
        activations.
        """

    def why_kept(self, info: TensorInfo) -> str:
        """Why engines expect this linear weight in 16 bits in this layout; empty where they do not."""
        del info
        return ""

    def kept(self, info: TensorInfo) -> TensorInfo:
        """How a tensor that is not quantized is stored."""
        return info

    def copy(self, info: TensorInfo, band: NDArray[Any]) -> NDArray[Any]:
        """Rows of a tensor that is not quantized, in the type that `kept` says."""
        del info
        return band

    @abstractmethod
    def config(self, contents: Contents) -> dict[str, Any]:
        """What config.json gains."""

    def files(self, contents: Contents) -> dict[str, bytes]:
        """Every file beside the weights: name -> content."""
        return contents.auxiliary | {CONFIG: as_json(contents.config | self.config(contents))}

    def weight_files(self, out: Place, shards: Sequence[Sequence[TensorInfo]], contents: Contents) -> list[WeightFile]:
        """The files for ``shards`` of entries, opened in the folder ``out``. Raises OutputError for a full disk."""
        del contents
        files: list[WeightFile] = []
        try:
            for i, entries in enumerate(shards):
                files.append(ShardWriter(out / shard_name(i, len(shards)), entries, METADATA))
        except BaseException:
            for file in files:
                file.discard()
            raise
        return files

    def index(self, files: Sequence[WeightFile]) -> dict[str, bytes]:
        """The file that says which tensor is in which of ``files``; empty where there is one."""
        if len(files) < 2:
            return {}
        located = {entry.name: file.path.name for file in files for entry in file.entries}
        size = sum(entry.nbytes for file in files for entry in file.entries)
        return {INDEX: as_json({"metadata": {"total_size": size}, "weight_map": located})}

    def file_bytes(self, shards: Sequence[Sequence[TensorInfo]], contents: Contents) -> int:
        """Bytes of the weight files, headers included."""
        del contents
        return sum(file_bytes(entries, METADATA) for entries in shards)

    @abstractmethod
    def detect(self, checkpoint: Checkpoint) -> bool:
        """Whether ``checkpoint`` is in this layout."""

    @abstractmethod
    def open(self, checkpoint: Checkpoint) -> dict[str, Stored]:
        """The quantized weights of ``checkpoint`` by the name they had.

        Raises CheckpointError where config and tensors contradict each other.
        """

    @abstractmethod
    def read(self, checkpoint: Checkpoint, stored: Stored, start: int, stop: int) -> QTensor:
        """Rows ``start..stop`` of a quantized weight; ``start`` is a multiple of 128."""

    def kv_entries(self, attention: str) -> list[TensorInfo]:
        """The tensors that hold the scales of the keys and of the values of a module. Raises UnsupportedError."""
        raise UnsupportedError(
            f"layout {self.name} has no place for the scales of keys and values ({attention})",
            hint="use --layout compressed-tensors or modelopt, or leave out --kv",
        )

    def input_scale(self, checkpoint: Checkpoint, stored: Stored) -> float | None:
        """The scale of the inputs of ``stored`` where the checkpoint has one."""
        del checkpoint, stored
        return None


def owners(weights: Iterable[Stored]) -> dict[str, list[Stored]]:
    """Which of ``weights`` lie in which entry: packed experts share theirs."""
    found: dict[str, list[Stored]] = {}
    for weight in weights:
        for entry in weight.entries:
            found.setdefault(entry, []).append(weight)
    return found


_KV_SCALE = re.compile(r"(.+?)(?:\.[kv]_proj)?\.([kv])_scale")


def is_kv_scale(tensor: str) -> bool:
    """Whether ``tensor`` is the scale of the keys or of the values of an attention module."""
    return _KV_SCALE.fullmatch(tensor) is not None


def kv_scales(checkpoint: Checkpoint) -> dict[str, tuple[float, float]]:
    """The scales of the keys and of the values by attention module, as every layout names them."""
    found: dict[str, dict[str, float]] = {}
    for match in filter(None, map(_KV_SCALE.fullmatch, checkpoint.tensors)):
        value = read_array(checkpoint, match[0]).astype(np.float32).reshape(-1)
        found.setdefault(match[1], {})[match[2]] = float(value[0]) if value.size else 1.0
    return {attention: (scales["k"], scales["v"]) for attention, scales in found.items() if len(scales) == 2}


def with_scale(scheme: Scheme, scale: str) -> Scheme:
    """``scheme`` with weight scales stored as ``scale``."""
    return replace(scheme, weight=replace(scheme.weight, scale=scale))


def module(weight: str) -> str:
    """Module that a tensor ``*.weight`` belongs to."""
    return weight.removesuffix(".weight")


def quant_method(checkpoint: Checkpoint) -> str | None:
    """The ``quant_method`` that a checkpoint names."""
    found = checkpoint.quantization
    method = found.get("quant_method") if isinstance(found, dict) else None
    return method if isinstance(method, str) else None


def need(
    checkpoint: Checkpoint, name: str, dtype: str | None = None, shape: tuple[int, ...] | None = None
) -> TensorInfo:
    """The tensor ``name``. Raises CheckpointError where it is missing or not of ``dtype`` and ``shape``."""
    info = checkpoint.tensors.get(name)
    if info is None:
        raise CheckpointError(
            f"{checkpoint.path}: tensor {name} is missing, which config.json promises",
            hint="the checkpoint is incomplete or its quantization_config is not its own: fetch or quantize it again",
        )
    wanted = (dtype or info.dtype, shape if shape is not None else info.shape)
    if (info.dtype, info.shape) != wanted:
        raise CheckpointError(
            f"{checkpoint.path}: {name} is {info.dtype} {list(info.shape)}, but its layout needs "
            f"{wanted[0]} {list(wanted[1])}",
            hint="the quantization_config does not describe these tensors: fetch or quantize the checkpoint again",
        )
    return info


def as_bytes(array: NDArray[Any]) -> memoryview:
    """The bytes of ``array`` in C order, without a copy where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def as_json(content: Any) -> bytes:
    """A JSON file's bytes."""
    return (json.dumps(content, indent=2) + "\n").encode()


def cast(band: NDArray[Any], dtype: str) -> NDArray[Any]:
    """``band`` in the safetensors type ``dtype``."""
    return band.astype(DTYPES[dtype], copy=False)


def shard_name(index: int, count: int) -> str:
    """What the safetensors file ``index`` of ``count`` is called."""
    return SINGLE if count == 1 else f"model-{index + 1:05d}-of-{count:05d}.safetensors"
