"""``hf-fp8``: the FP8 of DeepSeek-V3, which vLLM and transformers read. Facts from vLLM 0.32 and transformers 5.17.

| ``weight_block_size`` | beside ``weight`` F8_E4M3 [out, in] a module has | activations |
|---|---|---|
| [128, 128] | ``weight_scale_inv`` [out/128, in/128], rounded up: F32, read also BF16 and E8M0 | in blocks of 128 |
| absent, read only | ``weight_scale`` (AutoFP8, vLLM) or ``weight_scale_inv`` (transformers) [] | per token |
| absent, ``static``, read only | the same and ``input_scale`` or ``activation_scale`` [] | one scale |

``weight_scale_inv`` multiplies, in spite of its name. What stays in 16 bits is listed under ``modules_to_not_convert``;
older files say ``ignored_layers``. One scale a tensor is not written, for vLLM and transformers call it differently.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from halve import formats, schemes
from halve.checkpoint.base import DTYPES, FLOATS, Checkpoint, TensorInfo, read_array
from halve.codecs import dispatch
from halve.codecs.reference import code_dtype
from halve.errors import CheckpointError, FormatError
from halve.layouts.base import Contents, Layout, Stored, Support, module, need, quant_method, with_scale
from halve.schemes import Block, Scheme
from halve.schemes.qtensor import QTensor
from halve.schemes.table import BlockSize

METHOD = "fp8"
_CODES = "F8_E4M3"
_TILE = 128
_BLOCK = Block(element="fp8_e4m3", block_size=(_TILE, _TILE))
_ACTIVATION = Block(element="fp8_e4m3", block_size=_TILE)
_SCALES = FLOATS | {"F8_E8M0": "e8m0", "U8": "e8m0"}  # dtype of scales -> their number format
_SUFFIXES = ("weight_scale_inv", "weight_scale")
_INPUT_SUFFIXES = ("input_scale", "activation_scale")
_AGAIN = "the quantization_config is not these tensors' own: fetch the checkpoint again"


class HfFp8(Layout):
    """Tiles of 128 x 128 under FP32 scales."""

    name: ClassVar[str] = "hf-fp8"
    about: ClassVar[str] = "DeepSeek-V3's FP8, which vLLM and transformers read"

    def supports(self, scheme: Scheme) -> Support:
        """fp8_block only."""
        weight = scheme.weight
        if (weight.element, weight.block_size) != (_BLOCK.element, _BLOCK.block_size) or weight.scale == "e8m0":
            return Support("it holds FP8 in tiles of 128 x 128 only, which fp8_block is")
        if scheme.activation != _ACTIVATION:
            return Support("engines quantize the activations of its layers in blocks of 128, as fp8_block says")
        return Support(engines=("vLLM 0.32", "transformers 5.17"))

    def bind(self, scheme: Scheme, dtype: str) -> Scheme:
        """Scales are FP32, as DeepSeek-V3's are."""
        del dtype
        return with_scale(scheme, "fp32")

    def entries(self, weight: TensorInfo, scheme: Scheme) -> list[TensorInfo]:
        """Codes and scales.

        Raises FormatError also for rows that transformers would read wrongly: it takes the height of a tile to be rows
        over rows of scales wherever that comes out even, so that 192 rows are two tiles of 96 to it.
        """
        down, across = scheme.weight.scale_shape(weight.rows, weight.columns)
        if weight.columns % _TILE:
            raise FormatError(f"{weight.columns} columns are not whole tiles of {_TILE}, which engines ask for")
        if down > 1 and weight.rows % _TILE and weight.rows % down == 0:
            raise FormatError(
                f"{weight.rows} rows are {down} tiles of {_TILE}, which transformers would take for tiles of "
                f"{weight.rows // down} rows"
            )
        name = module(weight.name)
        return [
            TensorInfo(f"{name}.weight", _CODES, (weight.rows, weight.columns)),
            TensorInfo(f"{name}.weight_scale_inv", "F32", (down, across)),
        ]

    def write(
        self, weight: TensorInfo, scheme: Scheme, q: QTensor, first_row: int, input_scale: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """A band of rows."""
        del scheme, first_row, input_scale
        name = module(weight.name)
        return {
            f"{name}.weight": q.codes.astype(np.uint8, copy=False).view(DTYPES[_CODES]),
            f"{name}.weight_scale_inv": q.scales,
        }

    def config(self, contents: Contents) -> dict[str, Any]:
        """``quantization_config`` as DeepSeek-V3 has it, and what is not converted."""
        return {
            "quantization_config": {
                "quant_method": METHOD,
                "fmt": "e4m3",
                "activation_scheme": "dynamic",
                "weight_block_size": [_TILE, _TILE],
                "modules_to_not_convert": contents.kept,
            }
        }

    def detect(self, checkpoint: Checkpoint) -> bool:
        """By ``quant_method``."""
        return quant_method(checkpoint) == METHOD

    def open(self, checkpoint: Checkpoint) -> dict[str, Stored]:
        """The quantized weights: every module with codes or scales."""
        tile, static = _settings(checkpoint)
        found = (_stored(checkpoint, name, tile, static=static) for name in _modules(checkpoint.tensors.values()))
        return {stored.name: stored for stored in found}

    def read(self, checkpoint: Checkpoint, stored: Stored, start: int, stop: int) -> QTensor:
        """Rows ``start..stop``."""
        block, (code_name, scale_name, *_) = stored.block, stored.entries
        height = block.tile(*stored.shape)[0]
        first, last = start // height, -(-stop // height)
        scale_format = formats.get(block.scale or "")
        scales = read_array(checkpoint, scale_name, first, last).view(code_dtype(scale_format))
        codes = read_array(checkpoint, code_name, start, stop).view(np.uint8)
        return QTensor(block, codes, dispatch.decode(scale_format, scales.reshape(last - first, -1)))

    def input_scale(self, checkpoint: Checkpoint, stored: Stored) -> float | None:
        """The scale of static activations."""
        if not stored.scheme.activation_static:
            return None
        return float(read_array(checkpoint, stored.entries[2]).astype(np.float32).reshape(()))


def _settings(checkpoint: Checkpoint) -> tuple[tuple[int, int] | None, bool]:
    """Tile, None where a tensor has one scale, and whether activations have a stored scale.

    Raises CheckpointError for a config that says neither.
    """
    match checkpoint.quantization:
        case {"activation_scheme": "dynamic", "weight_block_size": [int(height), int(width)]} if min(height, width) > 0:
            return (height, width), False
        case {"activation_scheme": "dynamic" | "static" as scheme, **rest} if not rest.get("weight_block_size"):
            return None, scheme == "static"
        case found:
            raise CheckpointError(
                f"{checkpoint.path}: quantization_config of method fp8 is not one that halve reads: {found}",
                hint="it needs activation_scheme (static without blocks only), and two positive weight_block_size",
            )


def _modules(tensors: Iterable[TensorInfo]) -> list[str]:
    """Modules that have codes or scales; those that lack the other half of it are found later."""
    names = (
        info.name.rpartition(".")[0]
        for info in tensors
        if info.name.rpartition(".")[2] in _SUFFIXES or (info.name.endswith(".weight") and info.dtype == _CODES)
    )
    return list(dict.fromkeys(names))


def _stored(checkpoint: Checkpoint, name: str, tile: tuple[int, int] | None, *, static: bool) -> Stored:
    """The weight of module ``name``. Raises CheckpointError where its tensors contradict the config."""
    codes = need(checkpoint, f"{name}.weight", _CODES)
    scales = _one_of(checkpoint, name, _SUFFIXES)
    number_format = _SCALES.get(scales.dtype)
    if len(codes.shape) != 2 or number_format is None:
        raise CheckpointError(
            f"{checkpoint.path}: {codes.name} is {list(codes.shape)} under {scales.dtype} scales, and what halve reads "
            f"is a matrix under {', '.join(_SCALES)}",
            hint=_AGAIN,
        )
    size: BlockSize = (tile[1] if tile[0] == 1 else tile) if tile else "tensor"
    block = Block(element="fp8_e4m3", scale=number_format, block_size=size)
    shape = codes.rows, codes.columns
    wanted = [block.scale_shape(*shape)] if _divides(block, shape) else []
    if scales.shape not in (wanted if tile else [*wanted, (), (1,)]):
        raise CheckpointError(
            f"{checkpoint.path}: {scales.name} is {list(scales.shape)}, where {codes.name} {list(shape)} in blocks of "
            f"{list(tile) if tile else 'the whole tensor'} has {[list(s) for s in wanted]}",
            hint=_AGAIN,
        )
    inputs = [_one_of(checkpoint, name, _INPUT_SUFFIXES)] if static else []
    if static and inputs[0].shape not in ((), (1,)):
        raise CheckpointError(f"{checkpoint.path}: {inputs[0].name} is {list(inputs[0].shape)}, not [1]", hint=_AGAIN)
    scheme = schemes.find(block, _activation(block, static=static), static=static)
    return Stored(codes.name, shape, scheme, tuple(info.name for info in (codes, scales, *inputs)))


def _divides(block: Block, shape: tuple[int, int]) -> bool:
    return not isinstance(block.block_size, int) or shape[1] % block.block_size == 0


def _one_of(checkpoint: Checkpoint, name: str, suffixes: tuple[str, ...]) -> TensorInfo:
    """The tensor of module ``name`` that has one of ``suffixes``."""
    found = [f"{name}.{suffix}" for suffix in suffixes if f"{name}.{suffix}" in checkpoint.tensors]
    return need(checkpoint, found[0] if found else f"{name}.{suffixes[0]}")


def _activation(block: Block, *, static: bool) -> Block:
    """What engines do with inputs: like the weight's columns; without blocks per token, or under the stored scale."""
    match block.block_size:
        case (_, int(width)):
            return Block(element="fp8_e4m3", block_size=width)
        case int():
            return block
        case _:
            return Block(element="fp8_e4m3", block_size="tensor" if static else "row")


LAYOUT = HfFp8()
