"""``gpt-oss-mxfp4``: experts of an MoE layer in MXFP4, as gpt-oss has them. Facts from transformers 5.17 and vLLM 0.32.

All E experts of a layer N share two tensors a projection, ``P`` being ``model.layers.N.mlp.experts``:

| tensor | type and shape | order |
|---|---|---|
| ``P.gate_up_proj_blocks`` | U8 [E, 2*I, H/32, 16] | even column in the low nibble |
| ``P.gate_up_proj_scales`` | U8 [E, 2*I, H/32] | E8M0 |
| ``P.down_proj_blocks``, ``..._scales`` | U8 [E, H, I/32, 16], U8 [E, H, I/32] | the same |

Here an expert's matrix is a weight of its own, ``P.<e>.gate_up_proj.weight`` [2*I, H] and ``P.<e>.down_proj.weight``
[H, I]: [out, in] as everywhere, the rows of gate and up in turns as on disk (gate first). The 16-bit parameters of
transformers, ``P.gate_up_proj`` [E, H, 2*I], are the transpose. Biases [E, out], attention, router and embeddings stay
in 16 bits.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from halve import formats, schemes
from halve.checkpoint.base import Checkpoint, TensorInfo, read_array
from halve.checkpoint.place import Place
from halve.codecs import dispatch
from halve.errors import CheckpointError, FormatError, UnsupportedError
from halve.layouts.base import Contents, Layout, Stored, Support, WeightFile, module, need, quant_method
from halve.schemes import Block, Scheme
from halve.schemes.qtensor import QTensor

METHOD = "mxfp4"
_BLOCK = Block(element="fp4_e2m1", scale="e8m0", block_size=32)
_PACKED = 16  # bytes of a block
_NOT_CONVERTED = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
_WEIGHT = re.compile(r"(?P<experts>.+\.experts)\.(?P<expert>\d+)\.(?P<projection>gate_up_proj|down_proj)$")
_PIECE = re.compile(r"(?P<experts>.+\.experts)\.(?P<expert>\d+)\.(?P<entry>(gate_up|down)_proj_(blocks|scales))$")
_STORED = re.compile(r"(?P<module>.+\.experts\.(gate_up_proj|down_proj))_(blocks|scales)$")
_AGAIN = "the checkpoint is incomplete, or not gpt-oss: fetch it again"


class GptOss(Layout):
    """Packed experts; whatever is no expert stays in 16 bits."""

    name: ClassVar[str] = "gpt-oss-mxfp4"
    about: ClassVar[str] = "gpt-oss's MXFP4 experts, which vLLM and transformers read"
    shards_alone: ClassVar[bool] = False
    whole_experts: ClassVar[bool] = True
    model_types: ClassVar[tuple[str, ...]] = ("gpt_oss",)  # engines look for it nowhere else

    def supports(self, scheme: Scheme) -> Support:
        """mxfp4a16 only: its config cannot say what becomes of activations."""
        if scheme.weight != _BLOCK or scheme.activation is not None:
            return Support("it holds FP4 experts in blocks of 32 with 16-bit activations only, which mxfp4a16 is")
        return Support(engines=("vLLM 0.32", "transformers 5.17"))

    def why_kept(self, info: TensorInfo) -> str:
        """All but experts."""
        return "" if _WEIGHT.match(module(info.name)) else "no expert"

    def entries(self, weight: TensorInfo, scheme: Scheme) -> list[TensorInfo]:
        """One expert's piece of the two tensors. Raises FormatError also for what is no expert."""
        name = module(weight.name)
        if not _WEIGHT.match(name):
            raise FormatError("no expert of an MoE layer, and all else stays in 16 bits here")
        down, across = scheme.weight.scale_shape(weight.rows, weight.columns)
        return [
            TensorInfo(f"{name}_blocks", "U8", (down, across, _PACKED)),
            TensorInfo(f"{name}_scales", "U8", (down, across)),
        ]

    def write(
        self, weight: TensorInfo, scheme: Scheme, q: QTensor, first_row: int, input_scale: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """A band of rows of one expert."""
        del scheme, first_row, input_scale
        name = module(weight.name)
        codes = dispatch.pack(q.codes.astype(np.uint8, copy=False), 4)
        return {
            f"{name}_blocks": codes.reshape(*q.scales.shape, _PACKED),
            f"{name}_scales": dispatch.encode(formats.get("e8m0"), q.scales),
        }

    def config(self, contents: Contents) -> dict[str, Any]:
        """``quantization_config`` as gpt-oss has it. Engines run it in BF16."""
        del contents
        return {
            "torch_dtype": "bfloat16",
            "dtype": "bfloat16",
            "quantization_config": {"quant_method": METHOD, "modules_to_not_convert": _NOT_CONVERTED},
        }

    def weight_files(self, out: Place, shards: Sequence[Sequence[TensorInfo]], contents: Contents) -> list[WeightFile]:
        """Files in which the pieces of all experts lie one after another, as one tensor.

        Raises UnsupportedError for another architecture, and where some of a layer's experts are missing.
        """
        packed = _pack(shards, contents)
        files = super().weight_files(out, _whole(packed), contents)
        return [_ExpertsFile(file, shard) for file, shard in zip(files, packed, strict=True)]

    def index(self, files: Sequence[WeightFile]) -> dict[str, bytes]:
        """The index lists whole tensors."""
        return super().index([file.whole if isinstance(file, _ExpertsFile) else file for file in files])

    def file_bytes(self, shards: Sequence[Sequence[TensorInfo]], contents: Contents) -> int:
        """Bytes of the weight files, headers included."""
        return super().file_bytes(_whole(_pack(shards, contents)), contents)

    def detect(self, checkpoint: Checkpoint) -> bool:
        """By ``quant_method``."""
        return quant_method(checkpoint) == METHOD

    def open(self, checkpoint: Checkpoint) -> dict[str, Stored]:
        """Every expert's matrices."""
        modules = dict.fromkeys(match["module"] for name in checkpoint.tensors if (match := _STORED.match(name)))
        if not modules:
            raise CheckpointError(
                f"{checkpoint.path}: quant_method is {METHOD}, and no tensor is called experts.*_proj_blocks",
                hint="halve reads gpt-oss's layout of MXFP4 experts; this is another",
            )
        found = chain.from_iterable(_experts(checkpoint, name) for name in modules)
        return {stored.name: stored for stored in found}

    def read(self, checkpoint: Checkpoint, stored: Stored, start: int, stop: int) -> QTensor:
        """Rows ``start..stop`` of one expert."""
        match = _WEIGHT.match(module(stored.name))
        assert match  # noqa: S101 - open() made the name
        expert = int(match["expert"])
        blocks, scales = (read_array(checkpoint, entry, expert, expert + 1)[0, start:stop] for entry in stored.entries)
        codes = dispatch.unpack(blocks.reshape(stop - start, -1), 4)
        return QTensor(stored.block, codes, dispatch.decode(formats.get("e8m0"), scales))


@dataclass(frozen=True, slots=True)
class _Packed:
    """A tensor of all experts, and each expert's piece of it."""

    whole: TensorInfo
    pieces: tuple[TensorInfo, ...]


_Shard = list[TensorInfo | _Packed]


def _pack(shards: Sequence[Sequence[TensorInfo]], contents: Contents) -> list[_Shard]:
    """``shards`` with every tensor of experts where the first of its pieces was."""
    if (model_type := contents.config.get("model_type")) not in LAYOUT.model_types:
        raise UnsupportedError(
            f"engines read layout {LAYOUT.name} of gpt_oss models only, and this is {model_type}",
            hint="use --layout compressed-tensors",
        )
    found: dict[str, dict[int, TensorInfo]] = {}
    for entry in chain.from_iterable(shards):
        if match := _PIECE.match(entry.name):
            found.setdefault(f"{match['experts']}.{match['entry']}", {})[int(match["expert"])] = entry
    experts = contents.config.get("num_local_experts")
    tensors = {name: _packed(name, pieces, experts) for name, pieces in found.items()}
    position = {packed.pieces[0].name: packed for packed in tensors.values()}
    dropped = {piece.name for packed in tensors.values() for piece in packed.pieces[1:]}
    kept = ([position.get(e.name, e) for e in shard if e.name not in dropped] for shard in shards)
    return [shard for shard in kept if shard]


def _packed(name: str, pieces: dict[int, TensorInfo], experts: object) -> _Packed:
    """The tensor ``name``. Raises UnsupportedError where experts are missing or differ in shape."""
    ordered = tuple(piece for _, piece in sorted(pieces.items()))
    count = experts if isinstance(experts, int) else len(pieces)
    if pieces.keys() != set(range(count)) or len({piece.shape for piece in ordered}) > 1:
        raise UnsupportedError(
            f"{name} holds all {count} experts of a layer in one shape; {len(pieces)} of them are to be quantized",
            hint="quantize all experts of a layer or none: check --ignore, --include and --on-nonfinite",
        )
    return _Packed(TensorInfo(name, ordered[0].dtype, (count, *ordered[0].shape)), ordered)


def _whole(packed: Sequence[_Shard]) -> list[list[TensorInfo]]:
    """The tensors as they stand in the files."""
    return [[entry.whole if isinstance(entry, _Packed) else entry for entry in shard] for shard in packed]


class _ExpertsFile:
    """A file that is written by the piece: bytes of expert e go to the e-th part of the tensor."""

    def __init__(self, whole: WeightFile, shard: _Shard) -> None:
        self.whole = whole
        self.path = whole.path
        self.nbytes = whole.nbytes
        parts = [entry.pieces if isinstance(entry, _Packed) else (entry,) for entry in shard]
        self.entries: tuple[TensorInfo, ...] = tuple(chain.from_iterable(parts))
        self._places = {
            piece.name: (packed.whole.name, i * piece.nbytes)
            for packed in shard
            if isinstance(packed, _Packed)
            for i, piece in enumerate(packed.pieces)
        }

    def write(self, name: str, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put ``data`` at byte ``offset`` of the piece, or of the whole tensor, ``name``."""
        tensor, begin = self._places.get(name, (name, 0))
        self.whole.write(tensor, begin + offset, data)

    def restore(self, name: str, offset: int, nbytes: int) -> None:
        """Count bytes of the piece, or of the whole tensor, ``name`` as written."""
        tensor, begin = self._places.get(name, (name, 0))
        self.whole.restore(tensor, begin + offset, nbytes)

    def finish(self) -> None:
        """Bring the file to the disk under its name."""
        self.whole.finish()

    def sync(self) -> None:
        """Bring what has been written to the disk. Raises OutputError where the disk fails."""
        self.whole.sync()

    def suspend(self) -> None:
        """Close the file, and leave what is written to a later job."""
        self.whole.suspend()

    def discard(self) -> None:
        """Remove what is unfinished."""
        self.whole.discard()


def _experts(checkpoint: Checkpoint, name: str) -> Iterator[Stored]:
    """The matrices in ``<name>_blocks``, one an expert. Raises CheckpointError where its scales do not fit."""
    blocks = need(checkpoint, f"{name}_blocks", "U8")
    if len(blocks.shape) != 4 or blocks.shape[3] != _PACKED or 0 in blocks.shape:
        raise CheckpointError(
            f"{checkpoint.path}: {blocks.name} is {list(blocks.shape)}, where gpt-oss has "
            f"[experts, rows, blocks, {_PACKED}]",
            hint=_AGAIN,
        )
    count, rows, across, _ = blocks.shape
    scales = need(checkpoint, f"{name}_scales", "U8", (count, rows, across))
    expected = checkpoint.config.get("num_local_experts", count)
    if expected != count:
        raise CheckpointError(
            f"{checkpoint.path}: {blocks.name} holds {count} experts, and config.json says {expected}", hint=_AGAIN
        )
    parent, _, projection = name.rpartition(".")
    shape = rows, across * 32
    for expert in range(count):
        weight = f"{parent}.{expert}.{projection}.weight"
        yield Stored(weight, shape, schemes.find(_BLOCK), (blocks.name, scales.name))


LAYOUT = GptOss()
