"""``torch``: a state dict that ``torch.load(weights_only=True)`` reads, every quantized weight as a few plain tensors.

| tensor of module X | dtype | shape | where |
|---|---|---|---|
| ``X.weight`` | ``float8_e4m3fn``, ``int8`` ... | [out, in] | codes of 8 bits |
| ``X.weight`` | ``uint8`` | [out, in*bits/8] | codes of fewer bits, end to end, lowest bits first: an even column of FP4 or INT4 in the low nibble |
| ``X.weight_scale`` | ``float32``, ``bfloat16``, ``float16``, ``float8_e4m3fn``, ``float8_e8m0fnu`` | [out, in/block]; [out, 1] a row; tiles [out/height, in/width] | always; a value, ``.float()`` gives it |
| ``X.weight_zero_point`` | ``uint8`` | as the scales | asymmetric schemes, one a byte |
| ``X.weight_minimum`` | as the scales | as the scales | schemes with a minimum (GGUF's Q4_1), which is added |
| ``X.weight_tensor_scale`` | ``float32`` | [1] | NVFP4; a factor, not its reciprocal |
| ``X.input_scale`` | ``float32`` | [1] | static activations; a factor |

A weight is ``(element(code) - zero_point) * weight_scale * weight_tensor_scale + weight_minimum``. INT codes of fewer
than 8 bits are two's complement. Of quantized weights config.json says which scheme each module has, under ``quantization_config`` with
``quant_method: halve``, and the file is called ``model.pt``, because transformers skips a method that it does not know
and would take codes for weights. A cast (``bf16`` ...) has no entry but ``X.weight``, is called ``pytorch_model.bin``, and
transformers loads it.
"""  # noqa: E501 - a table row is a line

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from halve import formats, schemes
from halve.checkpoint.base import DTYPES, FLOATS, Checkpoint, TensorInfo, read_array
from halve.checkpoint.hf import INDEX, TORCH_CODES, TORCH_CODES_INDEX, TORCH_INDEX, TORCH_SINGLE
from halve.checkpoint.place import Place
from halve.checkpoint.torch_file import TorchWriter, file_bytes
from halve.codecs import dispatch
from halve.codecs.reference import code_dtype
from halve.errors import CheckpointError, FormatError
from halve.layouts.base import Contents, Layout, Stored, Support, WeightFile, module, need, quant_method
from halve.schemes import Block, Scheme
from halve.schemes.qtensor import QTensor
from halve.schemes.table import BlockSize

METHOD = "halve"
_FORMAT = "torch"

_FLOAT = {number_format: dtype for dtype, number_format in FLOATS.items()}
_SCALE = _FLOAT | {"ue4m3": "F8_E4M3", "e8m0": "F8_E8M0"}
_WHOLE = {  # elements of 8 bits
    "fp8_e4m3": "F8_E4M3",
    "fp8_e5m2": "F8_E5M2",
    "fp8_e4m3fnuz": "F8_E4M3FNUZ",
    "fp8_e5m2fnuz": "F8_E5M2FNUZ",
    "int8": "I8",
    "uint8": "U8",
}
_TORCH = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class Torch(Layout):
    """Tensors under plain names in one file, or in shards with an index."""

    name: ClassVar[str] = _FORMAT
    about: ClassVar[str] = "a state dict of torch.load: codes, scales and zero points as plain tensors"
    shards_alone: ClassVar[bool] = False

    def supports(self, scheme: Scheme) -> Support:
        """Casts, and every element of at most 8 bits."""
        if scheme.dense:
            return Support(engines=("torch 2.13", "transformers 5.17"))
        if _dtype(scheme.weight) is None or scheme.weight.scale not in _SCALE:
            return Support(f"torch has no type for {scheme.weight.element} with {scheme.weight.scale} scales")
        return Support(engines=("torch 2.13 (tensors, to be dequantized)",))

    def entries(self, weight: TensorInfo, scheme: Scheme) -> list[TensorInfo]:
        """The cast tensor; else codes, scales, and what the scheme adds."""
        block, rows, columns = scheme.weight, weight.rows, weight.columns
        if scheme.dense:
            return [TensorInfo(weight.name, _FLOAT[block.element], weight.shape)]
        bits, name = block.element_format.bits, module(weight.name)
        if columns * bits % 8:
            raise FormatError(f"{columns} columns of {bits} bits do not end on a byte")
        scales = block.scale_shape(rows, columns)
        entries = [
            TensorInfo(weight.name, _dtype(block) or "", (rows, columns * bits // 8)),
            TensorInfo(f"{name}.weight_scale", _SCALE[block.scale or ""], scales),
        ]
        if block.zero_point:
            entries.append(TensorInfo(f"{name}.weight_zero_point", "U8", scales))
        if block.minimum:
            entries.append(TensorInfo(f"{name}.weight_minimum", _SCALE[block.scale or ""], scales))
        if block.tensor_scale:
            entries.append(TensorInfo(f"{name}.weight_tensor_scale", "F32", (1,)))
        if scheme.activation_static:
            entries.append(TensorInfo(f"{name}.input_scale", "F32", (1,)))
        return entries

    def write(
        self, weight: TensorInfo, scheme: Scheme, q: QTensor, first_row: int, input_scale: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """A band of rows."""
        block, name = q.block, module(weight.name)
        if scheme.dense:
            return {weight.name: q.codes.view(DTYPES[_FLOAT[block.element]])}
        packed = dispatch.pack(q.codes.astype(np.uint8, copy=False), block.element_format.bits)
        band = {weight.name: packed.view(DTYPES[_dtype(block) or ""])}
        if block.block_size != "tensor" or not first_row:
            band[f"{name}.weight_scale"] = _encoded(block, q.scales)
            if q.zeros is not None:
                band[f"{name}.weight_zero_point"] = q.zeros
            if q.mins is not None:
                band[f"{name}.weight_minimum"] = _encoded(block, q.mins)
        if not first_row:
            if q.tensor_scale is not None:
                band[f"{name}.weight_tensor_scale"] = np.array([q.tensor_scale], np.float32)
            if input_scale is not None:
                band[f"{name}.input_scale"] = np.array([input_scale], np.float32)
        return band

    def config(self, contents: Contents) -> dict[str, Any]:
        """The dtype of a cast; else ``quantization_config``, which lists the modules of each scheme."""
        modules: dict[Scheme, list[str]] = {}
        for name, scheme in contents.quantized.items():
            modules.setdefault(scheme, []).append(name)
        cast_to = {_TORCH[scheme.weight.element] for scheme in modules if scheme.dense}
        if cast_to or not modules:
            return dict.fromkeys(("torch_dtype", "dtype"), cast_to.pop()) if cast_to else {}
        groups = [
            {
                "scheme": scheme.name,
                "weight": asdict(scheme.weight),
                "input": scheme.activation and asdict(scheme.activation),
                "input_static": scheme.activation_static,
                "modules": names,
            }
            for scheme, names in modules.items()
        ]
        return {"quantization_config": {"quant_method": METHOD, "format": _FORMAT, "groups": groups}}

    def weight_files(self, out: Place, shards: Sequence[Sequence[TensorInfo]], contents: Contents) -> list[WeightFile]:
        """One file, or a numbered part a shard."""
        whole = Path(TORCH_SINGLE if all(scheme.dense for scheme in contents.quantized.values()) else TORCH_CODES)
        files: list[WeightFile] = []
        try:
            for i, entries in enumerate(shards):
                part = f"{whole.stem}-{i + 1:05d}-of-{len(shards):05d}{whole.suffix}" if len(shards) > 1 else whole.name
                files.append(TorchWriter(out / part, entries))
        except BaseException:
            for file in files:
                file.discard()
            raise
        return files

    def index(self, files: Sequence[WeightFile]) -> dict[str, bytes]:
        """What transformers reads of a cast; the same for codes."""
        content = super().index(files).get(INDEX)
        name = TORCH_INDEX if files[0].path.suffix == Path(TORCH_SINGLE).suffix else TORCH_CODES_INDEX
        return {name: content} if content else {}

    def file_bytes(self, shards: Sequence[Sequence[TensorInfo]], contents: Contents) -> int:
        """Bytes of the files."""
        del contents
        return sum(file_bytes(entries) for entries in shards)

    def detect(self, checkpoint: Checkpoint) -> bool:
        """By ``quant_method`` and ``format``; a cast is the layout ``dense`` to readers."""
        return quant_method(checkpoint) == METHOD and (checkpoint.quantization or {}).get("format") == _FORMAT

    def open(self, checkpoint: Checkpoint) -> dict[str, Stored]:
        """The quantized weights: the modules that ``quantization_config`` lists."""
        groups = (checkpoint.quantization or {}).get("groups")
        found: dict[str, Stored] = {}
        for group in groups if isinstance(groups, list) and groups else [None]:
            match group:
                case {"weight": dict(weight), "input": inputs, "input_static": bool(static), "modules": list(names)}:
                    block, activation = _block(weight), _block(inputs)
                case _:
                    block = None
            if block is None or (inputs is not None and activation is None):
                raise CheckpointError(
                    f"{checkpoint.path}: quantization_config describes no weights that halve knows: {str(group)[:200]}",
                    hint="the config is damaged, or of a newer halve: fetch or quantize the checkpoint again",
                )
            scheme = schemes.find(block, activation, static=static)
            for name in names:
                stored = _stored(checkpoint, str(name), scheme)
                found[stored.name] = stored
        return found

    def read(self, checkpoint: Checkpoint, stored: Stored, start: int, stop: int) -> QTensor:
        """Rows ``start..stop``."""
        block, name = stored.block, module(stored.name)
        raw = read_array(checkpoint, stored.name, start, stop)
        height = block.tile(*stored.shape)[0]
        rows = start // height, -(-stop // height)
        tensor_scale = float(read_array(checkpoint, f"{name}.weight_tensor_scale")[0]) if block.tensor_scale else None
        return QTensor(
            block,
            dispatch.unpack(raw.view(np.uint8), block.element_format.bits),
            _decoded(block, read_array(checkpoint, f"{name}.weight_scale", *rows)),
            tensor_scale,
            read_array(checkpoint, f"{name}.weight_zero_point", *rows) if block.zero_point else None,
            _decoded(block, read_array(checkpoint, f"{name}.weight_minimum", *rows)) if block.minimum else None,
        )

    def input_scale(self, checkpoint: Checkpoint, stored: Stored) -> float | None:
        """The scale of static activations."""
        if not stored.scheme.activation_static:
            return None
        return float(read_array(checkpoint, f"{module(stored.name)}.input_scale")[0])


def _dtype(block: Block) -> str | None:
    """The stored type of codes."""
    return "U8" if block.element_format.bits < 8 else _WHOLE.get(block.element)


def _encoded(block: Block, scales: NDArray[np.float32]) -> NDArray[Any]:
    """Scales, or minima, as they are stored."""
    return dispatch.encode(formats.get(block.scale or ""), scales).view(DTYPES[_SCALE[block.scale or ""]])


def _decoded(block: Block, stored: NDArray[Any]) -> NDArray[np.float32]:
    scale_format = formats.get(block.scale or "")
    return dispatch.decode(scale_format, stored.view(code_dtype(scale_format)))


def _block(described: object) -> Block | None:
    """The block of a config; None for what is not described as this layout does."""
    match described:
        case {
            "element": str(element),
            "scale": str(scale),
            "block_size": size,
            "tensor_scale": bool(tensor_scale),
            "zero_point": bool(zero_point),
            "minimum": bool(minimum),
        } if element in formats.FORMATS and scale in _SCALE:
            pass
        case _:
            return None
    block_size: BlockSize
    match size:
        case "row" | "tensor":
            block_size = size
        case int(block_size) if block_size > 0:
            pass
        case [int(height), int(width)] if height > 0 and width > 0:
            block_size = (height, width)
        case _:
            return None
    block = Block(
        element=element,
        scale=scale,
        block_size=block_size,
        tensor_scale=tensor_scale,
        zero_point=zero_point,
        minimum=minimum,
    )
    return block if _dtype(block) else None


def _stored(checkpoint: Checkpoint, name: str, scheme: Scheme) -> Stored:
    """The weight of module ``name``. Raises CheckpointError where its tensors contradict ``scheme``."""
    codes = need(checkpoint, f"{name}.weight", _dtype(scheme.weight))
    columns = codes.columns * 8 // scheme.weight.element_format.bits
    try:
        entries = LAYOUT.entries(TensorInfo(codes.name, "F32", (codes.rows, columns)), scheme)
    except FormatError as error:
        raise CheckpointError(
            f"{checkpoint.path}: {codes.name}: {error}", hint="the quantization_config is not these tensors' own"
        ) from None
    for entry in entries:
        need(checkpoint, entry.name, entry.dtype, entry.shape)
    return Stored(codes.name, (codes.rows, columns), scheme, tuple(entry.name for entry in entries))


LAYOUT = Torch()
