"""``gguf``: one file for llama.cpp and what is built on it. Facts from gguf 0.19 and llama.cpp, see the tests' client.

| scheme | type of ``blk.N.*.weight`` | beside it |
|---|---|---|
| ``int4_g32``, ``int4_min_g32``, ``int8_g32`` | Q4_0, Q4_1, Q8_0 | - |
| ``mxfp4``, ``mxfp4a16`` | MXFP4 | - |
| ``nvfp4a16``; ``nvfp4`` | NVFP4 | ``blk.N.*.scale`` F32 [1], the tensor scale (a factor); ``.input_scale`` F32 [1] |
| ``fp32``, ``fp16``, ``bf16`` | F32, F16, BF16 | - |

How blocks lie in bytes: `halve.checkpoint.gguf_blocks`. Vectors are always F32, as llama.cpp's kernels want them; other
tensors that stay keep their type. The file holds config and tokenizer too, so nothing stands beside it but licences.
An entry has the name and the rows that it has in Hugging Face, and as bytes what a block type is: U8 [out, row bytes].
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from halve import schemes
from halve.checkpoint.base import DTYPES, FLOATS, Checkpoint, TensorInfo
from halve.checkpoint.gguf import Encoding
from halve.checkpoint.gguf_blocks import BLOCKS, encoding_of, pack, row_bytes, unpack
from halve.checkpoint.gguf_checkpoint import GgufCheckpoint
from halve.checkpoint.gguf_export import MODEL_TYPES, export
from halve.checkpoint.gguf_writer import GgufModel, GgufWriter, file_bytes
from halve.checkpoint.place import Place
from halve.errors import FormatError
from halve.layouts.base import Contents, Layout, Stored, Support, WeightFile, cast, module, with_scale
from halve.schemes import Scheme
from halve.schemes.qtensor import QTensor

FILE = "model.gguf"

_EMBEDDING = "model.embed_tokens.weight"
_HELD = [schemes.find(block).name for block in BLOCKS.values()]
_DTYPE = {number_format: dtype for dtype, number_format in FLOATS.items()}
_ENGINES = ("llama.cpp (xllamacpp 2026.10)",)


class Gguf(Layout):
    """Rows of blocks, renamed and, for Llama, with the halves of q and k heads interleaved as they are written."""

    name: ClassVar[str] = "gguf"
    about: ClassVar[str] = "one file for llama.cpp, Ollama, LM Studio"
    shards_alone: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False
    model_types: ClassVar[tuple[str, ...]] = tuple(MODEL_TYPES)

    def supports(self, scheme: Scheme) -> Support:
        """Block types by their exact block; llama.cpp has its own way with activations."""
        if scheme.dense:
            return Support(engines=_ENGINES)
        weight = with_scale(scheme, "fp16").weight if scheme.weight.scale in FLOATS.values() else scheme.weight
        if encoding_of(weight) is None:
            return Support(f"llama.cpp has no such blocks, but those of {', '.join(_HELD)}")
        if scheme.activation is not None and scheme.activation != scheme.weight:
            return Support(f"llama.cpp does not run {scheme.weight.element} weights with such activations")
        return Support(engines=_ENGINES)

    def bind(self, scheme: Scheme, dtype: str) -> Scheme:
        """Floating-point scales are FP16."""
        del dtype
        return with_scale(scheme, "fp16") if scheme.weight.scale in FLOATS.values() else scheme

    def entries(self, weight: TensorInfo, scheme: Scheme) -> list[TensorInfo]:
        """The blocks, and NVFP4's scales beside them.

        Raises FormatError for rows that are no whole blocks, and for an embedding that would need a scale beside it.
        """
        if scheme.dense:
            return [self.kept(TensorInfo(weight.name, _DTYPE[scheme.weight.element], weight.shape))]
        encoding = _encoding(scheme)
        if weight.columns % encoding.block_size:
            raise FormatError(
                f"{weight.columns} columns is not a multiple of {encoding.name}'s block size {encoding.block_size}"
            )
        if scheme.weight.tensor_scale and weight.name == _EMBEDDING:
            raise FormatError(f"llama.cpp applies no tensor scale, which {encoding.name} needs, to an embedding")
        entries = [TensorInfo(weight.name, "U8", (weight.rows, row_bytes(encoding, weight.columns)))]
        factors = ["scale"] * scheme.weight.tensor_scale + ["input_scale"] * scheme.activation_static
        return entries + [TensorInfo(f"{module(weight.name)}.{factor}", "F32", (1,)) for factor in factors]

    def write(
        self, weight: TensorInfo, scheme: Scheme, q: QTensor, first_row: int, input_scale: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """A band of rows."""
        if scheme.dense:
            return {weight.name: self.copy(weight, q.codes.view(DTYPES[_DTYPE[q.block.element]]))}
        band: dict[str, NDArray[Any]] = {weight.name: pack(_encoding(scheme), q)}
        if not first_row:
            for factor, value in (("scale", q.tensor_scale), ("input_scale", input_scale)):
                if value is not None:
                    band[f"{module(weight.name)}.{factor}"] = np.array([value], np.float32)
        return band

    def kept(self, info: TensorInfo) -> TensorInfo:
        """Vectors become F32."""
        vector = len(info.shape) < 2 and info.dtype in FLOATS
        return TensorInfo(info.name, "F32", info.shape) if vector else info

    def copy(self, info: TensorInfo, band: NDArray[Any]) -> NDArray[Any]:
        """Vectors in F32."""
        return cast(band, self.kept(info).dtype) if info.dtype in FLOATS and len(info.shape) < 2 else band

    def config(self, contents: Contents) -> dict[str, Any]:
        """Nothing: there is no config.json."""
        del contents
        return {}

    def files(self, contents: Contents) -> dict[str, bytes]:
        """Licences: all else is in the file."""
        return {name: content for name, content in contents.auxiliary.items() if name.startswith("LICENSE")}

    def weight_files(self, out: Place, shards: Sequence[Sequence[TensorInfo]], contents: Contents) -> list[WeightFile]:
        """One file.

        Raises UnsupportedError for an architecture, rope scaling or tokenizer that llama.cpp has no word for,
        CheckpointError where config.json, tensors and tokenizer files contradict each other.
        """
        entries = list(chain.from_iterable(shards))
        return [GgufWriter(out / FILE, entries, _model(entries, contents))]

    def index(self, files: Sequence[WeightFile]) -> dict[str, bytes]:
        """One file needs none."""
        del files
        return {}

    def file_bytes(self, shards: Sequence[Sequence[TensorInfo]], contents: Contents) -> int:
        """Bytes of the file. Raises as `weight_files` does."""
        return file_bytes(_model(list(chain.from_iterable(shards)), contents))

    def detect(self, checkpoint: Checkpoint) -> bool:
        """Every GGUF file is."""
        return isinstance(checkpoint, GgufCheckpoint)

    def open(self, checkpoint: Checkpoint) -> dict[str, Stored]:
        """The matrices in block types that are schemes; others are read as plain numbers."""
        source = _gguf(checkpoint)
        found = {}
        for name, info in source.tensors.items():
            block = BLOCKS.get(source.encoding(name).name)
            if block is None or (source.scale(name) != 1 and not block.tensor_scale):
                continue
            static = block.tensor_scale and source.input_scale(name) is not None
            scheme = schemes.find(block, block if static else None, static=static)
            found[name] = Stored(name, (info.rows, info.columns), scheme, (name,))
        return found

    def read(self, checkpoint: Checkpoint, stored: Stored, start: int, stop: int) -> QTensor:
        """Rows ``start..stop``."""
        source = _gguf(checkpoint)
        return unpack(source.encoding(stored.name), source.blocks(stored.name, start, stop), source.scale(stored.name))

    def input_scale(self, checkpoint: Checkpoint, stored: Stored) -> float | None:
        """The scale of static activations."""
        return _gguf(checkpoint).input_scale(stored.name)


def _gguf(checkpoint: Checkpoint) -> GgufCheckpoint:
    assert isinstance(checkpoint, GgufCheckpoint)  # noqa: S101 - detect() comes first
    return checkpoint


def _encoding(scheme: Scheme) -> Encoding:
    encoding = encoding_of(scheme.weight)
    assert encoding is not None  # noqa: S101 - supports() comes first
    return encoding


def _model(entries: Sequence[TensorInfo], contents: Contents) -> GgufModel:
    blocks = {f"{name}.weight": scheme for name, scheme in contents.quantized.items() if not scheme.dense}
    encodings = {entry.name: _encoding(blocks[entry.name]) for entry in entries if entry.name in blocks}
    return export(entries, encodings, contents.config, contents.auxiliary)


LAYOUT = Gguf()
