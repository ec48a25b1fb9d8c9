"""``bitsandbytes``: NF4 and FP4 as QLoRA trains on them, double quantization included, and LLM.int8; NF4 is written.

| tensor of module X | dtype | shape | holds |
|---|---|---|---|
| ``X.weight`` | U8 (or another ``quant_storage``) | [out*in/2, 1] | codes of the flattened weight, the first of two in the *high* nibble |
| ``X.weight.absmax`` | F32 | [out*in/64] | scales of blocks of the flattened weight |
| ``X.weight.quant_map`` | F32 | [16] | the value of each code |
| ``X.weight.quant_state.bitsandbytes__nf4`` | U8 | [bytes] | JSON: quant_type, blocksize, dtype, shape |
| ``X.weight.absmax``, double quantization | U8 | [out*in/64] | absmax = nested_quant_map[absmax] * nested_absmax of its block + nested_offset |
| ``X.weight.nested_absmax``, ``.nested_quant_map`` | F32 | [blocks], [256] | the same for the scales; nested_blocksize and nested_offset are in the JSON |
| ``X.SCB`` beside ``X.weight`` I8 [out, in] | F32 | [out] | LLM.int8: w = code * SCB / 127 |

Where 64 does not divide the columns a block goes on in the next row; it is then read as smaller blocks of equal scales.

Facts from bitsandbytes 0.50 (``functional.py``: QuantState, get_4bit_type, dequantize_4bit) and transformers 5.17
(``quantizer_bnb_4bit.py``).
"""  # noqa: E501 - a table row is a line

import json
from dataclasses import dataclass
from math import gcd, isfinite, prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from halve import formats, schemes
from halve.checkpoint.base import Checkpoint, TensorInfo, read_array
from halve.codecs import dispatch, reference
from halve.errors import CheckpointError
from halve.layouts.base import Contents, Layout, Stored, Support, as_bytes, module, need, quant_method
from halve.schemes import Block, Scheme
from halve.schemes.qtensor import QTensor

METHOD = "bitsandbytes"
_STATE = ".weight.quant_state.bitsandbytes__"
_ABSMAX = ".weight.absmax"
_INT8 = ".SCB"
_SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
_STATE_LIMIT = 4096  # bytes of JSON
_TORCH = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_AGAIN = "the file is damaged, or its quantization_config is not its own: fetch or quantize the checkpoint again"


class BitsAndBytes(Layout):
    """Blocks of the flattened weight, described beside each weight."""

    name: ClassVar[str] = METHOD
    about: ClassVar[str] = "bitsandbytes and transformers: NF4 as in QLoRA"

    def supports(self, scheme: Scheme) -> Support:
        """NF4 without double quantization."""
        weight = scheme.weight
        if weight.element != "nf4" or weight.scale != "fp32" or weight.block_size not in _SIZES:
            return Support("it holds NF4 in blocks of 64 to 4096 under FP32 scales")
        return Support(engines=("transformers 5.17 + bitsandbytes 0.50",))

    def entries(self, weight: TensorInfo, scheme: Scheme) -> list[TensorInfo]:
        """Codes, scales, the codebook, and the description."""
        scales = prod(scheme.weight.scale_shape(weight.rows, weight.columns))
        return [
            TensorInfo(weight.name, "U8", (weight.rows * weight.columns // 2, 1)),
            TensorInfo(f"{weight.name}.absmax", "F32", (scales,)),
            TensorInfo(f"{weight.name}.quant_map", "F32", (16,)),
            TensorInfo(f"{module(weight.name)}{_STATE}nf4", "U8", (len(_described(weight, scheme)),)),
        ]

    def write(
        self, weight: TensorInfo, scheme: Scheme, q: QTensor, first_row: int, input_scale: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """A band of rows."""
        del input_scale
        band: dict[str, NDArray[Any]] = {
            weight.name: dispatch.pack(_swapped(q.codes), 4).reshape(-1, 1),
            f"{weight.name}.absmax": q.scales.reshape(-1),
        }
        if first_row == 0:
            band[f"{weight.name}.quant_map"] = reference.value_table(q.block.element_format)
            described = np.frombuffer(_described(weight, scheme), np.uint8)
            band[f"{module(weight.name)}{_STATE}nf4"] = described
        return band

    def config(self, contents: Contents) -> dict[str, Any]:
        """``quantization_config`` as transformers writes it."""
        dtype = str(contents.config.get("dtype") or contents.config.get("torch_dtype") or "bfloat16")
        return {
            "quantization_config": {
                "quant_method": METHOD,
                "load_in_4bit": True,
                "load_in_8bit": False,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_compute_dtype": dtype,
                "bnb_4bit_quant_storage": "uint8",
                "bnb_4bit_use_double_quant": False,
                "llm_int8_skip_modules": contents.kept,
            }
        }

    def detect(self, checkpoint: Checkpoint) -> bool:
        """By ``quant_method``; older files say only ``load_in_4bit`` or ``load_in_8bit``."""
        config = checkpoint.quantization or {}
        method = quant_method(checkpoint)
        return method == METHOD or (method is None and bool(config.get("load_in_4bit") or config.get("load_in_8bit")))

    def open(self, checkpoint: Checkpoint) -> dict[str, Stored]:
        """The quantized weights: every module that has a description, scales, or an ``SCB``."""
        tensors = checkpoint.tensors
        four = {name.partition(_STATE)[0] for name in tensors if _STATE in name}
        four |= {name.removesuffix(_ABSMAX) for name in tensors if name.endswith(_ABSMAX)}
        eight = {name.removesuffix(_INT8) for name in tensors if name.endswith(_INT8)}
        stored = [_four_bits(checkpoint, name) for name in sorted(four)]
        stored += [_eight_bits(checkpoint, name) for name in sorted(eight)]
        return {one.name: one for one in stored}

    def read(self, checkpoint: Checkpoint, stored: Stored, start: int, stop: int) -> QTensor:
        """Rows ``start..stop``."""
        if stored.block.element == "int8":
            codes = read_array(checkpoint, stored.name, start, stop).view(np.uint8)
            rows = _finite(
                checkpoint, stored.name, read_array(checkpoint, f"{module(stored.name)}{_INT8}", start, stop)
            )
            return QTensor(stored.block, codes, rows[:, None] / np.float32(127))
        columns, first, last = stored.shape[1], start * stored.shape[1], stop * stored.shape[1]
        size = stored.block.tile(*stored.shape)[1]
        state = _state(checkpoint, module(stored.name))
        begin, end = first // state.block_size, -(-last // state.block_size)
        scales = _absmax(checkpoint, stored.name, state, begin, end)
        of_blocks = np.arange(first, last, size) // state.block_size - begin
        codes = _codes(checkpoint, stored.name, first, last).reshape(-1, columns)
        return QTensor(stored.block, codes, scales[of_blocks].reshape(len(codes), -1))


@dataclass(frozen=True, slots=True)
class _State:
    """The description of a weight."""

    kind: str
    block_size: int
    shape: tuple[int, int]
    nested_size: int = 0
    nested_offset: float = 0.0


_KINDS = ("nf4", "fp4")


def _described(weight: TensorInfo, scheme: Scheme) -> bytes:
    facts = {
        "quant_type": "nf4",
        "blocksize": scheme.weight.block_size,
        "dtype": _TORCH.get(weight.dtype, "bfloat16"),
        "shape": [weight.rows, weight.columns],
    }
    return json.dumps(facts).encode()


def _swapped(codes: NDArray[Any]) -> NDArray[np.uint8]:
    """Codes with the two of each byte exchanged: the first is in the high nibble."""
    pairs = codes.astype(np.uint8, copy=False).reshape(len(codes), -1, 2)
    return np.ascontiguousarray(pairs[:, :, ::-1]).reshape(codes.shape)


def _state(checkpoint: Checkpoint, name: str) -> _State:
    """The description of module ``name``. Raises CheckpointError where it is missing or says what halve lacks."""
    entry = next((f"{name}{_STATE}{kind}" for kind in _KINDS if f"{name}{_STATE}{kind}" in checkpoint.tensors), None)
    info = need(checkpoint, entry or f"{name}{_STATE}nf4", "U8")
    if info.nbytes > _STATE_LIMIT:
        raise CheckpointError(f"{checkpoint.path}: {info.name} takes {info.nbytes} bytes", hint=_AGAIN)
    try:
        facts = json.loads(bytes(as_bytes(read_array(checkpoint, info.name))))
    except (ValueError, RecursionError):
        facts = None
    match facts:
        case {"quant_type": "nf4" | "fp4" as kind, "blocksize": int(size), "shape": [int(rows), int(columns)]} if (
            size > 0 and rows > 0 and columns > 0 and info.name.endswith(kind)
        ):
            pass
        case _:
            raise CheckpointError(f"{checkpoint.path}: {info.name} does not describe a weight: {facts}", hint=_AGAIN)
    match facts:
        case {"nested_blocksize": int(nested), "nested_offset": int() | float() as offset} if nested > 0 and isfinite(
            offset
        ):
            return _State(kind, size, (rows, columns), nested, float(offset))
    return _State(kind, size, (rows, columns))


def _four_bits(checkpoint: Checkpoint, name: str) -> Stored:
    """The weight of module ``name``. Raises CheckpointError where its tensors contradict each other."""
    state = _state(checkpoint, name)
    if state.kind == "fp4":
        raise CheckpointError(
            f"{checkpoint.path}: {name} is in bitsandbytes' own FP4, which is not E2M1 and which halve does not read",
            hint="load it with transformers, model.dequantize(), and save that",
        )
    weight, elements = need(checkpoint, f"{name}.weight"), prod(state.shape)
    if weight.nbytes != -(-elements // 2):
        raise CheckpointError(
            f"{checkpoint.path}: {weight.name} takes {weight.nbytes} bytes, and {list(state.shape)} of 4 bits "
            f"{-(-elements // 2)}",
            hint=_AGAIN,
        )
    blocks = -(-elements // state.block_size)
    entries = [weight.name]
    wanted: list[tuple[str, str, int]] = [("absmax", "F32", blocks), ("quant_map", "F32", 16)]
    if state.nested_size:
        nested = -(-blocks // state.nested_size)
        wanted = [("absmax", "U8", blocks), ("quant_map", "F32", 16)]
        wanted += [("nested_absmax", "F32", nested), ("nested_quant_map", "F32", 256)]
    entries += [need(checkpoint, f"{weight.name}.{part}", dtype, (count,)).name for part, dtype, count in wanted]
    entries.append(f"{name}{_STATE}{state.kind}")
    _check_map(checkpoint, weight.name, state.kind)
    block = Block(element=state.kind, block_size=gcd(state.block_size, state.shape[1]))
    return Stored(weight.name, state.shape, schemes.find(block), tuple(entries))


def _check_map(checkpoint: Checkpoint, weight: str, kind: str) -> None:
    """The codebook is one that has a name, or the codes mean something else."""
    expected = reference.value_table(formats.get(kind))
    if not np.array_equal(read_array(checkpoint, f"{weight}.quant_map"), expected):
        raise CheckpointError(f"{checkpoint.path}: {weight}.quant_map is not that of {kind}", hint=_AGAIN)


def _eight_bits(checkpoint: Checkpoint, name: str) -> Stored:
    codes = need(checkpoint, f"{name}.weight", "I8")
    if len(codes.shape) != 2:
        raise CheckpointError(f"{checkpoint.path}: {codes.name} has {len(codes.shape)} dimensions, not 2", hint=_AGAIN)
    entries = [codes.name, need(checkpoint, f"{name}{_INT8}", "F32", codes.shape[:1]).name]
    order = f"{name}.weight_format"
    if order in checkpoint.tensors:
        entries.append(need(checkpoint, order, "U8").name)
        if read_array(checkpoint, order).any():
            raise CheckpointError(
                f"{checkpoint.path}: {codes.name} is stored in tiles of a kind of GPU ({order} is not 0)",
                hint="load it with transformers and a current bitsandbytes, and save it again",
            )
    block = Block(element="int8")
    return Stored(codes.name, (codes.rows, codes.columns), schemes.find(block), tuple(entries))


def _codes(checkpoint: Checkpoint, weight: str, first: int, last: int) -> NDArray[np.uint8]:
    """Codes ``first..last`` of the flattened weight; ``first`` is even."""
    itemsize = checkpoint.tensors[weight].nbytes // checkpoint.tensors[weight].rows
    begin, end = first // 2 // itemsize, -(-last // 2 // itemsize)
    raw = read_array(checkpoint, weight, begin, end).reshape(-1).view(np.uint8)
    packed = raw[first // 2 - begin * itemsize : -(-last // 2) - begin * itemsize]
    return _swapped(dispatch.unpack(packed[None], 4))[0, : last - first]


def _absmax(checkpoint: Checkpoint, weight: str, state: _State, begin: int, end: int) -> NDArray[np.float32]:
    """Scales ``begin..end``."""
    scales = read_array(checkpoint, f"{weight}.absmax", begin, end)
    if state.nested_size:
        values = read_array(checkpoint, f"{weight}.nested_quant_map")
        outer = read_array(checkpoint, f"{weight}.nested_absmax")[np.arange(begin, end) // state.nested_size]
        with np.errstate(over="ignore", invalid="ignore"):
            scales = values[scales] * outer + np.float32(state.nested_offset)
    return _finite(checkpoint, weight, scales)


def _finite(checkpoint: Checkpoint, weight: str, scales: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(scales).all():
        raise CheckpointError(f"{checkpoint.path}: {weight}: its scales hold NaN or Inf", hint=_AGAIN)
    return scales


LAYOUT = BitsAndBytes()
