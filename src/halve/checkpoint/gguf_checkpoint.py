"""A GGUF file as a checkpoint in Hugging Face terms: dequantized rows, names, config.json, tokenizer files."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halve.checkpoint.base import DTYPES, TensorInfo
from halve.checkpoint.gguf import Encoding, GgufFile, GgufTensor
from halve.checkpoint.gguf_blocks import unpack
from halve.checkpoint.gguf_config import build_config
from halve.checkpoint.gguf_llama import ROPE_FACTORS, Model, map_model, source_rows
from halve.checkpoint.gguf_metadata import DAMAGED
from halve.checkpoint.place import Place
from halve.errors import CheckpointError, UnsupportedError
from halve.schemes.quantize import dequantize

QUANTIZED = ("Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K", *(FP4 := ("MXFP4", "NVFP4")))
PLAIN = ("F32", "F16", "BF16")
CHUNK = 1 << 19  # elements dequantized at a time: bounds the float32 temporaries to a few times 2 MiB a thread


class GgufCheckpoint:
    """A GGUF model, dequantized as it is read. Implements ``halve.checkpoint.base.Checkpoint``.

    Tensors are presented as F32 or F16 where every matrix of the file is stored so, else as BF16 (nearest-even).
    Raises UnsupportedError for an architecture, rope scaling, bias or tensor type that cannot be carried over,
    CheckpointError for a file that is damaged or not GGUF.
    """

    quantization: dict[str, Any] | None = None  # block types are dequantized on the way

    def __init__(self, path: Place) -> None:
        self.path = path
        self.files = (path,)
        self._file = GgufFile(path)
        try:
            model = map_model(self._file.metadata, self._file.tensors)
            self._sources = dict(sorted(model.sources.items(), key=lambda item: item[1].tensor.offset))
            dtype = self._presented_dtype()
            self.config: dict[str, Any] = build_config(self._file.metadata, model, dtype, self._rope_factors(model))
        except BaseException:
            self.close()
            raise
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(
            {name: TensorInfo(name, dtype, source.tensor.shape) for name, source in self._sources.items()}
        )

    def read(self, name: str, start: int, stop: int, buffer: memoryview) -> memoryview:
        """Fill ``buffer`` with rows ``start..stop`` of tensor ``name``; return the part filled.

        Raises CheckpointError where the file ends early, cannot be read, or holds values that F16 cannot; ValueError,
        a mistake of the caller, for rows that the tensor does not have and a buffer that is too small.
        """
        info, source = self.tensors[name], self._sources[name]
        filled = buffer.cast("B")[: (stop - start) * info.row_bytes]
        if not 0 <= start <= stop <= info.rows or len(filled) != (stop - start) * info.row_bytes:
            raise ValueError(f"rows {start} to {stop} of {name}, which has {info.rows}, into {len(buffer)} elements")
        if source.tensor.encoding.name == info.dtype and not source.head and not source.scale:
            self._file.read_rows(source.tensor, start, filled)
            return filled
        rows = np.frombuffer(filled, DTYPES[info.dtype]).reshape(stop - start, info.columns)
        step = max(1, CHUNK // info.columns)
        for first in range(start, stop, step):
            last = min(first + step, stop)
            self._decode(name, first, last, rows[first - start : last - start])
        return filled

    def stored(self, name: str) -> tuple[str, int]:
        """Type and bytes of ``name`` in the file, before it is dequantized; its scale is counted."""
        source = self._sources[name]
        scales = (factor.nbytes for factor in (source.scale, source.input_scale) if factor)
        return source.tensor.encoding.name, source.tensor.nbytes + sum(scales)

    def encoding(self, name: str) -> Encoding:
        """How the file stores ``name``."""
        return self._sources[name].tensor.encoding

    def blocks(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows ``start..stop`` of ``name`` as the file stores them, [rows, row bytes], in Hugging Face order.

        Raises CheckpointError where the file ends early or cannot be read.
        """
        source = self._sources[name]
        if not source.head:
            return self._rows(source.tensor, start, stop)
        rows = source_rows(start, stop, source.head)
        first = int(rows.min(initial=source.tensor.shape[0]))
        return self._rows(source.tensor, first, int(rows.max(initial=first - 1)) + 1)[rows - first]

    def scale(self, name: str) -> float:
        """The factor of all of ``name``: a tensor scale that the file stores apart, as NVFP4 does; 1 without one."""
        return self._number(self._sources[name].scale, 1.0)

    def input_scale(self, name: str) -> float | None:
        """The scale of the inputs of ``name``, where the file has one."""
        stored = self._sources[name].input_scale
        return None if stored is None else self._number(stored, 1.0)

    def release(self, name: str) -> None:
        """Let the pages of ``name`` leave the page cache."""
        self._file.release(self._sources[name].tensor)

    def auxiliary(self) -> dict[str, bytes]:
        """Return the tokenizer files and generation_config.json that the metadata holds: name -> content.

        Raises UnsupportedError for a tokenizer that cannot be rebuilt: the weights stay readable.
        """
        from halve.checkpoint.tokenizer import tokenizer_files  # noqa: PLC0415 - brings the tokenizers library

        return tokenizer_files(self._file.metadata, self.config["vocab_size"])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _presented_dtype(self) -> str:
        for source in self._sources.values():
            tensor = source.tensor
            if tensor.encoding.name not in (*PLAIN, *(QUANTIZED if len(tensor.shape) > 1 else ())):
                raise UnsupportedError(
                    f"{self.path}: tensor {tensor.name!r} of shape {tensor.shape} has type {tensor.encoding.name}",
                    hint=f"known: {', '.join(PLAIN)}, and for matrices {', '.join(QUANTIZED)};"
                    " others: convert the file with llama-quantize",
                )
        kinds = {source.tensor.encoding.name for source in self._sources.values() if len(source.tensor.shape) > 1}
        return kinds.pop() if kinds in ({"F32"}, {"F16"}) else "BF16"

    def _rope_factors(self, model: Model) -> NDArray[np.float32] | None:
        tensor = self._file.tensors.get(ROPE_FACTORS)
        if tensor is None:
            return None
        shape = (model.geometry.head // 2,)
        if tensor.encoding.name != "F32" or tensor.shape != shape:
            raise CheckpointError(f"{self.path}: tensor {ROPE_FACTORS!r} is not F32 of shape {shape}", hint=DAMAGED)
        return _values(self._rows(tensor, 0, shape[0]), tensor.encoding).ravel()

    def _rows(self, tensor: GgufTensor, start: int, stop: int) -> NDArray[np.uint8]:
        raw = np.empty((stop - start, tensor.row_bytes), np.uint8)
        self._file.read_rows(tensor, start, raw.data.cast("B"))
        return raw

    def _number(self, tensor: GgufTensor | None, default: float) -> float:
        return default if tensor is None else float(self._rows(tensor, 0, 1).view("<f4")[0, 0])

    def _decode(self, name: str, start: int, stop: int, out: NDArray[Any]) -> None:
        """Dequantize rows ``start..stop`` into ``out``, rounding to its dtype."""
        source = self._sources[name]
        with np.errstate(all="ignore"):  # scales may be NaN or Inf; what to do about those is the quantizer's decision
            values = _values(self.blocks(name, start, stop), source.tensor.encoding)
            if source.scale:
                values = values * np.float32(self.scale(name))
            out[...] = values
        if out.dtype == np.float16 and np.any(np.isinf(out) & np.isfinite(values)):
            raise CheckpointError(
                f"{self.path}: tensor {source.tensor.name!r} holds values beyond F16, the type of the matrices",
                hint="convert the model to a BF16 or F32 GGUF",
            )


def _values(raw: NDArray[np.uint8], encoding: Encoding) -> NDArray[np.float32]:
    """Values of stored rows: [rows, row bytes] -> [rows, columns]."""
    if encoding.name in PLAIN:
        return raw.view(DTYPES[encoding.name]).astype(np.float32, copy=False)
    if encoding.name in FP4:  # which old versions of the package lack
        return dequantize(unpack(encoding, raw)) + np.float32(0)  # ggml has no -0
    from gguf import GGMLQuantizationType, quants  # noqa: PLC0415 - takes 0.1 s, and only quantized files need it

    # The package works through 16 rows at a time, mostly waiting for the interpreter lock: give it one long row.
    values = quants.dequantize(raw.reshape(1, -1), GGMLQuantizationType(encoding.id))
    matrix: NDArray[np.float32] = values.reshape(len(raw), -1)
    return matrix
