"""``compressed-tensors``: the layout of vLLM, SGLang and transformers. Facts read from compressed-tensors 0.19.

| codes | tensors of module X | order |
|---|---|---|
| FP4 | ``weight_packed`` U8 [out, in/2], ``weight_scale`` | even column in the low nibble |
| FP8; INT8 with activations | ``weight`` [out, in], ``weight_scale`` | - |
| INT4; INT8 alone | ``weight_packed`` I32 [out, in*bits/32], ``weight_scale``, ``weight_shape`` I64 [2] | code + 2^(bits-1), low bits first |

NVFP4 adds ``weight_global_scale`` F32 [1], the *reciprocal* of the tensor scale; asymmetric INT adds
``weight_zero_point`` I32, packed like the codes but along the rows. Static activations add ``input_scale`` [1] (FP8) or
``input_global_scale`` F32 [1], again a reciprocal (NVFP4). A checkpoint of one scheme has one config group for the
class ``Linear``; one of several has a group a scheme, whose targets are names of modules, which every reader prefers to
classes.
"""  # noqa: E501 - a table row is a line

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
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

VERSION = "0.19.0"  # of compressed-tensors, whose config schema this is
METHOD = "compressed-tensors"

_SCALE_DTYPE = {"ue4m3": "F8_E4M3", "e8m0": "U8"} | {number_format: dtype for dtype, number_format in FLOATS.items()}
_TORCH_SCALE = {"ue4m3": "torch.float8_e4m3fn", "e8m0": "torch.uint8"}


@dataclass(frozen=True, slots=True)
class _Codes:
    """How one of the formats of compressed-tensors stores codes."""

    format: str
    dtype: str
    suffix: str

    @property
    def packed_words(self) -> bool:
        """Whether codes are packed, offset to be unsigned, into 32-bit words."""
        return self.dtype == "I32"


_PACKED_INT = _Codes("pack-quantized", "I32", "weight_packed")
_PLAIN_INT = _Codes("int-quantized", "I8", "weight")
_CODES = {  # (element, scale; "float" for FP32, BF16 and FP16)
    ("fp4_e2m1", "ue4m3"): _Codes("nvfp4-pack-quantized", "U8", "weight_packed"),
    ("fp4_e2m1", "e8m0"): _Codes("mxfp4-pack-quantized", "U8", "weight_packed"),
    ("fp8_e4m3", "e8m0"): _Codes("mxfp8-quantized", "F8_E4M3", "weight"),
    ("fp8_e4m3", "float"): _Codes("float-quantized", "F8_E4M3", "weight"),
    ("int8", "float"): _PACKED_INT,
    ("int4", "float"): _PACKED_INT,
    ("uint4", "float"): _PACKED_INT,
    ("uint8", "float"): _PACKED_INT,
}
_SMALLEST_BLOCK = 16
_KV = Block(element="fp8_e4m3", block_size="tensor")
_ENGINES = ("vLLM 0.32", "transformers 5.17")


def _codes(block: Block, activation: Block | None) -> _Codes | None:
    if block.element == "int8" and activation is not None:
        return _PLAIN_INT
    scale = "float" if block.scale in FLOATS.values() else block.scale
    return _CODES.get((block.element, scale or ""))


class CompressedTensors(Layout):
    """Linear modules in config groups by scheme; what stays in 16 bits is listed under ``ignore``."""

    name: ClassVar[str] = METHOD
    about: ClassVar[str] = "vLLM, SGLang, transformers"

    def supports(self, scheme: Scheme) -> Support:
        """FP6 and codebooks have no format here, nor have GGUF's minima."""
        weight = scheme.weight
        if _codes(weight, scheme.activation) is None:
            return Support(f"it has no format for {weight.element} with {weight.scale} scales")
        if isinstance(weight.block_size, int) and weight.block_size < _SMALLEST_BLOCK:
            return Support(f"no engine has a kernel for blocks of {weight.block_size}")
        if weight.minimum or scheme.name.endswith("_g32"):
            return Support("it is a block type of llama.cpp; w4a16 and w8a16 are the same idea here")
        return Support(lossy="scales in the model's 16 bits" if weight.scale == "fp32" else "", engines=_ENGINES)

    def bind(self, scheme: Scheme, dtype: str) -> Scheme:
        """Scales that are not FP8 or E8M0 take the checkpoint's dtype: engines load them into it."""
        return with_scale(scheme, FLOATS[dtype]) if scheme.weight.scale in FLOATS.values() else scheme

    def entries(self, weight: TensorInfo, scheme: Scheme) -> list[TensorInfo]:
        """Codes, scales, and what the format adds."""
        block, codes, name = scheme.weight, _known(scheme), module(weight.name)
        rows, columns = weight.rows, weight.columns
        scales = block.scale_shape(rows, columns)
        bits = block.element_format.bits
        width = DTYPES[codes.dtype].itemsize * 8
        entries = [
            TensorInfo(f"{name}.{codes.suffix}", codes.dtype, (rows, -(-columns * bits // width))),
            TensorInfo(f"{name}.weight_scale", _SCALE_DTYPE[block.scale or ""], scales),
        ]
        if block.tensor_scale:
            entries.append(TensorInfo(f"{name}.weight_global_scale", "F32", (1,)))
        if codes.packed_words:
            entries.append(TensorInfo(f"{name}.weight_shape", "I64", (2,)))
        if block.zero_point:
            entries.append(TensorInfo(f"{name}.weight_zero_point", "I32", (-(-rows * bits // 32), scales[1])))
        if scheme.activation_static:
            entries.append(TensorInfo(f"{name}.{_input_scale(scheme)}", *_input_scale_type(scheme)))
        return entries

    def write(
        self, weight: TensorInfo, scheme: Scheme, q: QTensor, first_row: int, input_scale: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """A band of rows."""
        codes, name, bits = _known(scheme), module(weight.name), q.block.element_format.bits
        stored = q.codes.astype(np.uint8, copy=False)
        if codes.packed_words:
            stored = dispatch.pack(_pad_columns(_offset(q.block, stored), 32 // bits), bits).view(np.int32)
        elif bits < 8:
            stored = dispatch.pack(stored, bits)
        band = {f"{name}.{codes.suffix}": stored, f"{name}.weight_scale": _stored_scales(q)}
        if q.zeros is not None:
            across = _pad_columns(q.zeros.T, 32 // bits)
            band[f"{name}.weight_zero_point"] = dispatch.pack(across, bits).view(np.int32).T
        if first_row == 0:
            if q.tensor_scale is not None:
                band[f"{name}.weight_global_scale"] = np.array([1 / q.tensor_scale], np.float32)
            if codes.packed_words:
                band[f"{name}.weight_shape"] = np.array([weight.rows, weight.columns], np.int64)
            if input_scale is not None:
                value = np.array([input_scale], np.float32)
                number = np.float32(1) / value if _divides(scheme) else value
                band[f"{name}.{_input_scale(scheme)}"] = number.astype(DTYPES[_input_scale_type(scheme)[0]])
        return band

    def config(self, contents: Contents) -> dict[str, Any]:
        """``quantization_config``: one group for all linear modules, or one a scheme with the names of its modules."""
        modules: dict[Scheme, list[str]] = {}
        for name, scheme in contents.quantized.items():
            modules.setdefault(scheme, []).append(name)
        groups = {
            f"group_{i}": {
                "targets": ["Linear"] if len(modules) == 1 else names,
                "weights": _weight_args(scheme.weight),
                "input_activations": _activation_args(scheme),
                "output_activations": None,
                "format": _known(scheme).format,
            }
            for i, (scheme, names) in enumerate(modules.items())
        }
        kinds = {group["format"] for group in groups.values()}
        # FP4 and MX are decompressed to BF16 whatever the model's dtype, and a model of another dtype then fails.
        fixed = any(scheme.weight.scale not in FLOATS.values() for scheme in modules)
        dtype = {"torch_dtype": "bfloat16", "dtype": "bfloat16"} if fixed else {}
        return dtype | {
            "quantization_config": {
                "quant_method": METHOD,
                "version": VERSION,
                "format": kinds.pop() if len(kinds) == 1 else "mixed-precision",
                "quantization_status": "compressed",
                "ignore": contents.kept,
                "kv_cache_scheme": _args(_KV, "tensor", dynamic=False) if contents.kv else None,
                "config_groups": groups,
            }
        }

    def kv_entries(self, attention: str) -> list[TensorInfo]:
        """``k_scale`` and ``v_scale``."""
        return [TensorInfo(f"{attention}.{which}_scale", "F32", (1,)) for which in "kv"]

    def detect(self, checkpoint: Checkpoint) -> bool:
        """By ``quant_method``."""
        return quant_method(checkpoint) == METHOD

    def open(self, checkpoint: Checkpoint) -> dict[str, Stored]:
        """The quantized weights: every module that has a ``weight_scale``."""
        groups = (checkpoint.quantization or {}).get("config_groups")
        if not isinstance(groups, dict) or not groups or not all(isinstance(g, dict) for g in groups.values()):
            raise CheckpointError(
                f"{checkpoint.path}: quantization_config has no config_groups",
                hint="the config is damaged, or not of compressed-tensors: fetch the checkpoint again",
            )
        found = {}
        for scale in [name for name in checkpoint.tensors if name.endswith(".weight_scale")]:
            name = scale.removesuffix(".weight_scale")
            stored = _stored(checkpoint, name, _group_of(checkpoint, name, groups))
            found[stored.name] = stored
        return found

    def read(self, checkpoint: Checkpoint, stored: Stored, start: int, stop: int) -> QTensor:
        """Rows ``start..stop``."""
        name, block, bits = module(stored.name), stored.block, stored.block.element_format.bits
        code_name, scale_name = stored.entries[:2]
        raw = read_array(checkpoint, code_name, start, stop)
        if raw.dtype == np.int32:
            codes = _offset(block, dispatch.unpack(raw.view(np.uint8), bits)[:, : stored.shape[1]])
        else:
            codes = raw.view(np.uint8) if bits == 8 else dispatch.unpack(raw, bits)
        height = block.tile(*stored.shape)[0]
        raw_scales = read_array(checkpoint, scale_name, start // height, -(-stop // height))
        scale_format = formats.get(block.scale or "")
        scales = dispatch.decode(scale_format, raw_scales.view(code_dtype(scale_format)))
        zeros = tensor_scale = None
        if block.zero_point:
            per_word = 32 // bits
            packed = read_array(checkpoint, f"{name}.weight_zero_point", start // per_word, -(-stop // per_word))
            zeros = dispatch.unpack(np.ascontiguousarray(packed.T).view(np.uint8), bits).T[: stop - start]
        if block.tensor_scale:
            divisor = read_array(checkpoint, f"{name}.weight_global_scale")[0]
            with np.errstate(divide="ignore"):
                tensor_scale = float(np.float32(1) / divisor)
        return QTensor(block, codes, scales, tensor_scale, zeros)

    def input_scale(self, checkpoint: Checkpoint, stored: Stored) -> float | None:
        """The scale of static activations."""
        if not stored.scheme.activation_static:
            return None
        name = f"{module(stored.name)}.{_input_scale(stored.scheme)}"
        value = read_array(checkpoint, name).astype(np.float32).reshape(-1)
        with np.errstate(divide="ignore"):
            return float(np.float32(1) / value[0]) if _divides(stored.scheme) else float(value[0])


def _known(scheme: Scheme) -> _Codes:
    codes = _codes(scheme.weight, scheme.activation)
    assert codes is not None  # noqa: S101 - refusal() comes first
    return codes


def _divides(scheme: Scheme) -> bool:
    """Whether the scale of static activations is stored as its reciprocal."""
    return scheme.activation is not None and scheme.activation.tensor_scale


def _input_scale(scheme: Scheme) -> str:
    return "input_global_scale" if _divides(scheme) else "input_scale"


def _input_scale_type(scheme: Scheme) -> tuple[str, tuple[int, ...]]:
    return ("F32" if _divides(scheme) else _SCALE_DTYPE[scheme.weight.scale or ""]), (1,)


def _offset(block: Block, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two's complement <-> value + 2^(bits-1); unsigned codes (with a zero point) are stored as they are."""
    return codes if block.zero_point else codes ^ np.uint8(1 << (block.element_format.bits - 1))


def _pad_columns(codes: NDArray[np.uint8], multiple: int) -> NDArray[np.uint8]:
    missing = -codes.shape[1] % multiple
    return np.ascontiguousarray(np.pad(codes, ((0, 0), (0, missing))) if missing else codes)


def _stored_scales(q: QTensor) -> NDArray[Any]:
    name = q.block.scale or ""
    return dispatch.encode(formats.get(name), q.scales).view(DTYPES[_SCALE_DTYPE[name]])


def _args(block: Block, strategy: str, *, dynamic: bool | str) -> dict[str, Any]:
    element = block.element_format
    return {
        "num_bits": element.bits,
        "type": "int" if "int" in element.name else "float",
        "symmetric": not block.zero_point,
        "group_size": block.block_size if isinstance(block.block_size, int) else None,
        "strategy": strategy,
        "block_structure": list(block.block_size) if isinstance(block.block_size, tuple) else None,
        "dynamic": dynamic,
        "actorder": None,
        "scale_dtype": _TORCH_SCALE.get(block.scale or ""),
        "zp_dtype": "torch.int8" if block.zero_point else None,
        "observer": None,
        "observer_kwargs": {},
    }


def _strategy(block: Block, row: str) -> str:
    match block.block_size:
        case "row":
            return row
        case "tensor":
            return "tensor"
        case int():
            return "tensor_group" if block.tensor_scale else "group"
        case _:
            return "block"


def _weight_args(block: Block) -> dict[str, Any]:
    return _args(block, _strategy(block, "channel"), dynamic=False)


def _activation_args(scheme: Scheme) -> dict[str, Any] | None:
    if scheme.activation is None:
        return None
    dynamic = not scheme.activation_static or ("local" if scheme.activation.tensor_scale else False)
    return _args(scheme.activation, _strategy(scheme.activation, "token"), dynamic=dynamic)


def _block(args: dict[str, Any], scale_dtype: str) -> Block | None:
    """The block that a config's ``weights`` and the dtype of the scales describe; None for one that halve lacks."""
    match args.get("type"), args.get("num_bits"), args.get("symmetric"):
        case "float", 4, True:
            element = "fp4_e2m1"
        case "float", 8, True:
            element = "fp8_e4m3"
        case "int", (4 | 8) as bits, bool(symmetric):
            element = f"int{bits}" if symmetric else f"uint{bits}"
        case _:
            return None
    size: BlockSize
    match args.get("strategy"), args.get("group_size"), args.get("block_structure"):
        case "channel", _, _:
            size = "row"
        case "tensor", _, _:
            size = "tensor"
        case "group" | "tensor_group", int(size), _ if size > 0:
            pass
        case "block", _, [int(height), int(width)] if height > 0 and width > 0:
            size = (height, width)
        case _:
            return None
    scale = next((fmt for fmt, dtype in _SCALE_DTYPE.items() if dtype == scale_dtype), None)
    return Block(
        element=element,
        scale=scale,
        block_size=size,
        tensor_scale=args.get("strategy") == "tensor_group",
        zero_point=args.get("symmetric") is False,
    )


def _group_of(checkpoint: Checkpoint, name: str, groups: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The config group of module ``name``: by its name, else by a regular expression, else by its class."""
    targets = [(target, group) for group in groups.values() for target in group.get("targets") or ()]
    for named in (lambda t: t == name, lambda t: _names(checkpoint, t, name), lambda t: t == "Linear"):
        for target, group in targets:
            if isinstance(target, str) and named(target):
                return group
    raise CheckpointError(
        f"{checkpoint.path}: {name} has scales, and no config group names it",
        hint="the quantization_config is not these tensors' own: fetch or quantize the checkpoint again",
    )


def _names(checkpoint: Checkpoint, target: str, name: str) -> bool:
    if not target.startswith("re:"):
        return False
    try:
        return re.match(target[3:], name) is not None
    except re.error as error:
        raise CheckpointError(
            f"{checkpoint.path}: config group target {target!r} is not a regular expression: {error}",
            hint="the quantization_config is damaged: fetch or quantize the checkpoint again",
        ) from None


def _activation(group: dict[str, Any]) -> tuple[Block | None, bool]:
    """What a group's inputs become, and whether their scale is stored. Raises ValueError for what halve lacks."""
    match group.get("input_activations"):
        case None:
            return None, False
        case {"dynamic": dynamic} as args:
            strategy = {"token": "channel"}.get(args.get("strategy"), args.get("strategy"))
            scale = {"tensor_group": "F8_E4M3"}.get(strategy, "U8" if args.get("group_size") == _MX else "F32")
            block = _block(args | {"strategy": strategy}, scale)
            if block is not None:
                return block, dynamic is not True
    raise ValueError


_MX = 32


def _stored(checkpoint: Checkpoint, name: str, group: dict[str, Any]) -> Stored:
    """The weight of module ``name``. Raises CheckpointError where its tensors contradict its config ``group``."""
    args = group.get("weights")
    scales = need(checkpoint, f"{name}.weight_scale")
    packed = f"{name}.weight_packed" in checkpoint.tensors
    codes = need(checkpoint, f"{name}.weight_packed" if packed else f"{name}.weight")
    block = _block(args, scales.dtype) if isinstance(args, dict) else None
    try:
        activation, static = _activation(group)
    except ValueError:
        block = activation = None
    stored_as = activation or (Block(element="int8") if codes.dtype == "I8" else None)
    if block is None or block.scale is None or (kind := _codes(block, stored_as)) is None:
        raise CheckpointError(
            f"{checkpoint.path}: {codes.name} is {codes.dtype} with {scales.dtype} scales, and what "
            f"quantization_config says of it is not one of the formats that halve reads: {group}",
            hint="`halve schemes` lists what halve reads and writes",
        )
    if f"{name}.weight_g_idx" in checkpoint.tensors:
        raise CheckpointError(
            f"{checkpoint.path}: {name} has its columns reordered (weight_g_idx)",
            hint="export it with actorder=static, which leaves groups where they are",
        )
    if kind.packed_words:
        columns = int(read_array(checkpoint, need(checkpoint, f"{name}.weight_shape", "I64", (2,)).name)[1])
    else:
        columns = codes.columns * 8 // block.element_format.bits
    weight = TensorInfo(f"{name}.weight", "BF16", (codes.rows, max(columns, 0)))
    scheme = schemes.find(block, activation, static=static)
    try:
        entries = LAYOUT.entries(weight, replace(scheme, activation=stored_as))
    except FormatError as error:
        raise CheckpointError(
            f"{checkpoint.path}: {codes.name}: {error}", hint="the quantization_config is not these tensors' own"
        ) from None
    for entry in entries:
        of_inputs = entry.name.rpartition(".")[2].startswith("input_")  # tools differ in the type of this one number
        need(checkpoint, entry.name, None if of_inputs else entry.dtype, entry.shape)
    return Stored(weight.name, (weight.rows, weight.columns), scheme, tuple(entry.name for entry in entries))


LAYOUT = CompressedTensors()
