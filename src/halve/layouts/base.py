"""What a layout is: names, byte order, stored scale types and config of quantized weights on disk. Nothing else."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from halve.checkpoint.base import Checkpoint, TensorInfo
from halve.errors import CheckpointError
from halve.schemes import Block, Scheme
from halve.schemes.qtensor import QTensor


@dataclass(frozen=True, slots=True)
class Stored:
    """A quantized weight found in a checkpoint: the name and shape it had, how it is stored, and in which tensors."""

    name: str
    shape: tuple[int, int]
    block: Block
    entries: tuple[str, ...]


class Layout(ABC):
    """One way to store quantized weights. A file in this package holds one, as ``LAYOUT``.

    The job calls, in this order: `refusal` and `bind` before any byte is read, `entries` while planning, `write` for
    every band of rows, `config` at the end. Readers call `detect`, then `open` and `read`.
    """

    name: ClassVar[str]
    about: ClassVar[str]

    @abstractmethod
    def refusal(self, scheme: Scheme) -> str:
        """Why this layout cannot hold ``scheme``; empty where it can."""

    def bind(self, scheme: Scheme, dtype: str) -> Scheme:
        """``scheme`` with its scales in the type that this layout stores, for a checkpoint of ``dtype`` (BF16, ...).

        Codes are chosen under the stored scale, so that what is written is what was optimised.
        """
        del dtype
        return scheme

    @abstractmethod
    def entries(self, weight: TensorInfo, scheme: Scheme) -> list[TensorInfo]:
        """The tensors that ``weight`` becomes, in file order."""

    @abstractmethod
    def write(self, weight: TensorInfo, scheme: Scheme, q: QTensor, first_row: int) -> dict[str, NDArray[Any]]:
        """Bytes of a band of rows that starts at ``first_row``: entry name -> array.

        Bands come in order, start at multiples of 128 rows, and what they give for an entry is simply appended; what
        belongs to the tensor as a whole comes with the first band.
        """

    @abstractmethod
    def config(self, scheme: Scheme, quantized: list[str], kept: list[str]) -> dict[str, Any]:
        """What config.json gains: module names ``quantized``, and linear modules ``kept`` in their source type."""

    @abstractmethod
    def detect(self, config: dict[str, Any]) -> bool:
        """Whether a checkpoint with this config.json is in this layout."""

    @abstractmethod
    def open(self, checkpoint: Checkpoint) -> dict[str, Stored]:
        """The quantized weights of ``checkpoint`` by the name they had.

        Raises CheckpointError where config and tensors contradict each other.
        """

    @abstractmethod
    def read(self, checkpoint: Checkpoint, stored: Stored, start: int, stop: int) -> QTensor:
        """Rows ``start..stop`` of a quantized weight; ``start`` is a multiple of 128."""


def with_scale(scheme: Scheme, scale: str) -> Scheme:
    """``scheme`` with weight scales stored as ``scale``."""
    return replace(scheme, weight=replace(scheme.weight, scale=scale))


def module(weight: str) -> str:
    """Module that a tensor ``*.weight`` belongs to."""
    return weight.removesuffix(".weight")


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
