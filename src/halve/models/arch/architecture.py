"""What is known of one model's architecture: which weights are quantized, which go together, what feeds what."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from halve.errors import CheckpointError
from halve.models.arch.base import Branch, Family, Flow
from halve.models.arch.edge import Edge
from halve.models.arch.stack import PACKED, Stack
from halve.models.fused import EVERYWHERE
from halve.models.linear import why_kept

_LAYER = re.compile(r"(?P<layer>(?:.*\.)?layers\.\d+)\.(?P<module>.+)\.weight")
_NO_LINEAR = {"not a weight", "packed experts", "embedding", "norm", "convolution"}  # reasons of `why_kept`
_AGAIN = "the checkpoint is damaged, or config.json is not its own: fetch it again"


class _Shaped(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class Architecture:
    """An architecture, with the numbers of one model of it.

    ``checked`` means that names, shapes and edges of this model type were tested against transformers' own classes.
    """

    model_type: str
    family: Family | None  # of the language model; None where halve does not know it
    towers: tuple[str, ...]
    config: Mapping[str, Any]  # of the language model
    checked: bool

    @property
    def warning(self) -> str:
        """What a user should know before trusting it; empty where it was checked."""
        if self.family is None:
            return (
                f"halve does not know the architecture {self.model_type!r}: names and shapes tell its linear layers. "
                "Look at --dry-run before you serve the result"
            )
        if not self.checked:
            return (
                f"{self.model_type} was not checked: its weights are taken to have the names of {self.family.name}. "
                "Look at --dry-run before you serve the result"
            )
        return ""

    @property
    def whole_experts(self) -> bool:
        """Whether an expert's gate and up are one weight to engines, its rows in turns."""
        packing = self.family.packing if self.family else None
        return packing is not None and len(packing.gate_up) == 1

    def why_kept(self, tensor: str, dimensions: int) -> str:
        """Why ``tensor`` stays in its source type; empty where it is the weight of a linear layer."""
        if dimensions == 3 and PACKED.fullmatch(tensor):
            return "packed experts"
        why = why_kept(tensor, dimensions)
        if dimensions == 2 and why != "not a weight" and self._in_tower(tensor):
            return "vision or audio"
        return why or (_why_kept(self.family, tensor) if self.family else "")

    def is_linear(self, tensor: str, dimensions: int) -> bool:
        """Whether engines have a linear layer there, quantized or kept: they must be told of those that are kept."""
        why = self.why_kept(tensor, dimensions)
        return why not in _NO_LINEAR and not why.endswith("-D")

    def fused_group(self, tensor: str) -> str:
        """Name of the fused layer that ``tensor`` becomes a part of; its own module where it stands alone."""
        module = tensor.removesuffix(".weight")
        parent, _, leaf = module.rpartition(".")
        fused = self.family.fused if self.family else EVERYWHERE
        return f"{parent}.{fused[leaf]}" if leaf in fused else module

    def edges(self, tensors: Mapping[str, _Shaped]) -> list[Edge]:
        """Where factors can be moved in the decoder layers among ``tensors``; nowhere in an unknown architecture.

        Packed experts have to be seen as `stacks` says: a layer with weights that nobody knows has no edges from norms.
        """
        if self.family is None:
            return []
        layers: dict[str, dict[str, str]] = {}
        strange = set()
        for name, info in tensors.items():
            if self._in_tower(name):
                continue
            if match := _LAYER.fullmatch(name):
                layers.setdefault(match["layer"], {})[match["module"]] = name
                known = any(_listed(branch, match["module"]) for branch in self.family.branches)
                if len(info.shape) > 1 and not known:
                    strange.add(match["layer"])
            elif PACKED.fullmatch(name) and (match := _LAYER.fullmatch(f"{name}.weight")):
                strange.add(match["layer"])
        found: list[Edge] = []
        for layer, modules in layers.items():
            if layer not in strange:
                found += self._from_norms(modules, tensors)
            found += self._flows(modules, tensors)
        return found

    def stacks(self, tensors: Mapping[str, _Shaped]) -> list[Stack]:
        """The tensors that hold the matrices of all experts of a layer, and how.

        Raises CheckpointError for shapes that are not those of experts of this model's hidden size.
        """
        packing = self.family.packing if self.family else None
        if packing is None:
            return []
        found = []
        for name, info in tensors.items():
            match = PACKED.fullmatch(name)
            if match and len(info.shape) == 3:
                partner = tensors.get(f"{match['experts']}.gate_up_proj", info)
                transposed = self._transposed(partner.shape, packing.transposed)
                parts = (packing.down,) if match["projection"] == "down_proj" else packing.gate_up
                self._check(name, info.shape, transposed, len(parts))
                found.append(Stack(name, transposed, parts))
        return found

    def _in_tower(self, name: str) -> bool:
        return bool(self.towers) and not set(self.towers).isdisjoint(name.split(".")[:-1])

    def _size(self, key: str) -> int | None:
        value = self.config.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

    def _from_norms(self, modules: Mapping[str, str], tensors: Mapping[str, _Shaped]) -> Iterator[Edge]:
        assert self.family is not None  # noqa: S101 - edges() asked
        for branch in self.family.branches:
            norm = modules.get(branch.norm)
            if norm is None:
                continue
            width = tensors[norm].shape
            consumers = tuple(name for module, name in modules.items() if _matches(branch.reads, module))
            if consumers and all(tensors[name].shape[1:] == width for name in consumers):
                offset = self.family.norm_offset
                yield Edge(norm, consumers, channels=width[0], bias=_bias(norm, tensors), offset=offset)

    def _flows(self, modules: Mapping[str, str], tensors: Mapping[str, _Shaped]) -> Iterator[Edge]:
        assert self.family is not None  # noqa: S101 - edges() asked
        for flow in self.family.flows:
            for module, producer in modules.items():
                parent, _, leaf = module.rpartition(".")
                consumer = modules.get(f"{parent}.{flow.consumer}")
                if leaf != flow.producer or consumer is None:
                    continue
                edge = self._flow(flow, producer, consumer, tensors)
                if edge is not None:
                    yield edge

    def _flow(self, flow: Flow, producer: str, consumer: str, tensors: Mapping[str, _Shaped]) -> Edge | None:
        """The edge between two linear layers; None where their shapes or the config contradict it."""
        if len(tensors[producer].shape) != 2 or len(tensors[consumer].shape) != 2:
            return None
        rows, columns = tensors[producer].shape[0], tensors[consumer].shape[1]
        groups, head = 1, 0
        if flow.heads:
            heads = self._size("num_attention_heads") or 0
            kv_heads = self._size("num_key_value_heads") or heads
            if not heads or heads % kv_heads or columns % heads:
                return None
            groups, head = heads // kv_heads, columns // heads
        channels = columns // groups
        if rows < channels or (rows > channels and not flow.last):
            return None
        return Edge(producer, (consumer,), groups, head, channels, rows - channels, _bias(producer, tensors))

    def _transposed(self, shape: tuple[int, ...], expected: bool) -> bool:
        """Whether ``experts.gate_up_proj`` of ``shape`` is [experts, in, out]: the side that is the hidden size is."""
        hidden = self._size("hidden_size")
        sides = [side for side in (1, 2) if len(shape) == 3 and shape[side] == hidden]
        return sides == [1] if len(sides) == 1 else expected

    def _check(self, name: str, shape: tuple[int, ...], transposed: bool, parts: int) -> None:
        hidden = self._size("hidden_size")
        out, inputs = (shape[2], shape[1]) if transposed else (shape[1], shape[2])
        side = out if name.endswith("down_proj") else inputs
        if 0 in shape or out % parts or (hidden is not None and side != hidden):
            raise CheckpointError(
                f"{name} is {list(shape)}: no experts of a {self.model_type} with hidden_size {hidden}", hint=_AGAIN
            )


def _why_kept(family: Family, tensor: str) -> str:
    """Why a matrix that is nothing known to all architectures stays; empty for a linear layer of ``family``."""
    reason = _first(family.kept, tensor.removesuffix(".weight"))
    match = _LAYER.fullmatch(tensor)
    if reason or match is None:
        return reason or f"no linear layer of {family.name}"
    for branch in family.branches:
        if _listed(branch, match["module"]):
            return _first(branch.kept, match["module"])
    return f"no linear layer of {family.name}"


def _first(kept: Mapping[str, str], module: str) -> str:
    return next((reason for pattern, reason in kept.items() if re.fullmatch(pattern, module)), "")


@cache
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


def _matches(patterns: tuple[str, ...], module: str) -> bool:
    return bool(patterns) and _any_of(patterns).fullmatch(module) is not None


def _listed(branch: Branch, module: str) -> bool:
    return _matches(branch.reads, module) or _matches(branch.inner, module)


def _bias(weight: str, tensors: Mapping[str, _Shaped]) -> str:
    bias = f"{weight.removesuffix('.weight')}.bias"
    return bias if bias in tensors else ""
