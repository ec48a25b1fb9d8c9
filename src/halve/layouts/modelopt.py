"""``modelopt``: NVIDIA Model Optimizer's checkpoints. Facts read from exports of ModelOpt 0.47 and from vLLM 0.32.

| ``quant_algo`` | ``weight`` of module X | ``weight_scale`` | more tensors |
|---|---|---|---|
| NVFP4 | U8 [out, in/2], even column in the low nibble | F8_E4M3 [out, in/16] | ``weight_scale_2``, ``input_scale`` |
| W4A16_NVFP4 | as NVFP4 | as NVFP4 | ``weight_scale_2`` |
| FP8 | F8_E4M3 [out, in] | F32 [] | ``input_scale`` |
| FP8_PER_CHANNEL_PER_TOKEN | F8_E4M3 [out, in] | F32 [out] | - |
| FP8_PB_WO, written in lower case | F8_E4M3 [out, in] | F32 [out/128, 1, in/128, 1] | - |
| MXFP8 | F8_E4M3 [out, in] | U8 [out, in/32], E8M0 | - |
| MXFP4, read only: vLLM refuses it | as NVFP4 | U8 [out, in/32], E8M0 | - |

``weight_scale_2`` and ``input_scale`` are F32 [] and multiply: they *are* the tensor scales of weights and of static
activations, where compressed-tensors stores reciprocals; so do ``k_proj.k_scale`` and ``v_proj.v_scale`` F32 [] of an
FP8 cache. FP8_PB_WO reads "weight only", and vLLM quantizes activations
in blocks of 128 all the same. The config stands in config.json (``ignore``) and, for TensorRT-LLM, SGLang and older
vLLM, in hf_quant_config.json (``exclude_modules``); several algorithms are MIXED_PRECISION with ``quantized_layers``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from halve import formats, schemes
from halve.checkpoint.base import DTYPES, FLOATS, Checkpoint, TensorInfo, read_array
from halve.codecs import dispatch
from halve.codecs.reference import code_dtype
from halve.errors import CheckpointError, FormatError
from halve.layouts.base import Contents, Layout, Stored, Support, as_json, module, need, with_scale
from halve.schemes import Block, Scheme
from halve.schemes.qtensor import QTensor

METHOD = "modelopt"
CONFIG = "hf_quant_config.json"
MIXED = "MIXED_PRECISION"
# What wrote the schema, as engines that read hf_quant_config.json ask for; who wrote the file stands in halve.json.
PRODUCER = {"name": METHOD, "version": "0.47.0"}

_SCALE_DTYPE = {"ue4m3": "F8_E4M3", "e8m0": "U8", "fp32": "F32"}
_TILE = 128
_AGAIN = "the quantization_config is not these tensors' own: fetch or export the checkpoint again"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Algorithm:
    """One ``quant_algo``: what it does to a linear layer, and how it is described."""

    name: str  # as ModelOpt writes it; compared without case
    weight: Block
    activation: Block | None = None
    static: bool = False
    grouped: bool = False  # whether ModelOpt adds config_groups to config.json
    engines: tuple[str, ...] = ("vLLM 0.32",)

    @property
    def dtype(self) -> str:
        """Of the codes."""
        return "U8" if self.weight.element_format.bits < 8 else "F8_E4M3"

    @property
    def settings(self) -> dict[str, Any]:
        """What the configs say of a layer."""
        size = self.weight.block_size
        return {"quant_algo": self.name} | ({"group_size": size} if isinstance(size, int) else {})

    @property
    def group(self) -> dict[str, Any]:
        """A config group, without its targets."""
        weights = _args(self.weight)
        if self.weight.block_size == "row":
            weights["strategy"] = "channel"
        return {"weights": weights} | ({"input_activations": _args(self.activation)} if self.activation else {})

    def scale_shape(self, rows: int, columns: int) -> tuple[int, ...]:
        """Shape of ``weight_scale``. Raises FormatError for columns that the block size does not divide."""
        down, across = self.weight.scale_shape(rows, columns)
        match self.weight.block_size:
            case "tensor":
                return ()
            case "row":
                return (rows,)
            case int():
                return down, across
            case _:
                return down, 1, across, 1


def _args(block: Block) -> dict[str, Any]:
    size = {"group_size": block.block_size} if isinstance(block.block_size, int) else {}
    return {"dynamic": False, "num_bits": block.element_format.bits, "type": "float"} | size


_NVFP4 = Block(element="fp4_e2m1", scale="ue4m3", block_size=16, tensor_scale=True)
_FP8_TENSOR = Block(element="fp8_e4m3", block_size="tensor")
_FP8_ROW = Block(element="fp8_e4m3")
_MXFP8 = Block(element="fp8_e4m3", scale="e8m0", block_size=32)
_ALGORITHMS = {
    row.name.upper(): row
    for row in (
        _Algorithm(name="NVFP4", weight=_NVFP4, activation=_NVFP4, static=True, grouped=True),
        _Algorithm(name="W4A16_NVFP4", weight=_NVFP4, grouped=True),
        _Algorithm(name="FP8", weight=_FP8_TENSOR, activation=_FP8_TENSOR, static=True, grouped=True),
        _Algorithm(name="FP8_PER_CHANNEL_PER_TOKEN", weight=_FP8_ROW, activation=_FP8_ROW),
        _Algorithm(
            name="fp8_pb_wo",
            weight=Block(element="fp8_e4m3", block_size=(_TILE, _TILE)),
            activation=Block(element="fp8_e4m3", block_size=_TILE),
        ),
        _Algorithm(name="MXFP8", weight=_MXFP8, activation=_MXFP8),
        # ModelOpt does not say whether activations are quantized, too: they need not be.
        _Algorithm(name="mxfp4", weight=Block(element="fp4_e2m1", scale="e8m0", block_size=32), engines=()),
    )
}


class ModelOpt(Layout):
    """One ``quant_algo`` for the model, or one a module; what stays in 16 bits is listed by name."""

    name: ClassVar[str] = METHOD
    about: ClassVar[str] = "NVIDIA Model Optimizer, which vLLM reads"

    def supports(self, scheme: Scheme) -> Support:
        """What vLLM loads of ModelOpt's formats."""
        algorithm = _algorithm_of(scheme)
        if algorithm is None or not algorithm.engines:
            able = ", ".join(row.name.upper() for row in _ALGORITHMS.values() if row.engines)
            return Support(f"vLLM reads no such thing from it, but {able}")
        return Support(engines=algorithm.engines)

    def bind(self, scheme: Scheme, dtype: str) -> Scheme:
        """Scales that are not FP8 or E8M0 are FP32."""
        del dtype
        return with_scale(scheme, "fp32") if scheme.weight.scale in FLOATS.values() else scheme

    def entries(self, weight: TensorInfo, scheme: Scheme) -> list[TensorInfo]:
        """Codes, scales, and the scalars that the algorithm adds."""
        algorithm, name = _known(scheme), module(weight.name)
        if isinstance(algorithm.weight.block_size, tuple) and weight.columns % _TILE:
            raise FormatError(f"{weight.columns} columns are not whole tiles of {_TILE}, which vLLM refuses here")
        scales = algorithm.scale_shape(weight.rows, weight.columns)
        columns = weight.columns * algorithm.weight.element_format.bits // 8
        return [
            TensorInfo(f"{name}.weight", algorithm.dtype, (weight.rows, columns)),
            TensorInfo(f"{name}.weight_scale", _SCALE_DTYPE[algorithm.weight.scale or ""], scales),
            *(TensorInfo(f"{name}.{scalar}", "F32", ()) for scalar in _scalars(algorithm)),
        ]

    def write(
        self, weight: TensorInfo, scheme: Scheme, q: QTensor, first_row: int, input_scale: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """A band of rows."""
        algorithm, name = _known(scheme), module(weight.name)
        codes = q.codes.astype(np.uint8, copy=False)
        scales = dispatch.encode(formats.get(q.block.scale or ""), q.scales)
        band = {
            f"{name}.weight": dispatch.pack(codes, q.block.element_format.bits).view(DTYPES[algorithm.dtype]),
            f"{name}.weight_scale": scales.view(DTYPES[_SCALE_DTYPE[q.block.scale or ""]]),
        }
        if first_row:
            if q.block.block_size == "tensor":
                del band[f"{name}.weight_scale"]
            return band
        if q.tensor_scale is not None:
            band[f"{name}.weight_scale_2"] = np.array(q.tensor_scale, np.float32)
        if input_scale is not None:
            band[f"{name}.input_scale"] = np.array(input_scale, np.float32)
        return band

    def config(self, contents: Contents) -> dict[str, Any]:
        """``quantization_config`` as ModelOpt writes it."""
        algorithms = _used(contents)
        said = _said(algorithms, contents)
        groups = {
            f"group_{i}": algorithm.group | {"targets": names if len(algorithms) > 1 else ["Linear"]}
            for i, (algorithm, names) in enumerate(algorithms.items())
            if len(algorithms) > 1 or algorithm.grouped
        }
        # vLLM's MXFP8 takes BF16 activations only, whatever the source was.
        only_bf16 = any(algorithm.weight == _MXFP8 for algorithm in algorithms)
        return (dict.fromkeys(("torch_dtype", "dtype"), "bfloat16") if only_bf16 else {}) | {
            "quantization_config": {
                "quant_method": METHOD,
                "producer": PRODUCER,
                "quant_algo": said["quant_algo"],
                "ignore": said.get("exclude_modules", []),
            }
            | ({"quantized_layers": said["quantized_layers"]} if len(algorithms) > 1 else {})
            | ({"config_groups": groups} if groups else {})
            | ({"kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"}} if contents.kv else {})
        }

    def files(self, contents: Contents) -> dict[str, bytes]:
        """hf_quant_config.json, too."""
        said = _said(_used(contents), contents)
        return Layout.files(self, contents) | {CONFIG: as_json({"producer": PRODUCER, "quantization": said})}

    def kv_entries(self, attention: str) -> list[TensorInfo]:
        """``k_scale`` and ``v_scale``, under the projections that they belong to."""
        return [TensorInfo(f"{attention}.{which}_proj.{which}_scale", "F32", ()) for which in "kv"]

    def detect(self, checkpoint: Checkpoint) -> bool:
        """By ``quant_method``, or by ``quant_algo`` where only hf_quant_config.json is there."""
        found = checkpoint.quantization or {}
        method = found.get("quant_method")
        return str(method).startswith(METHOD) if method else "quant_algo" in _settings(checkpoint)

    def open(self, checkpoint: Checkpoint) -> dict[str, Stored]:
        """The quantized weights: every module with codes or scales."""
        settings = _settings(checkpoint)
        stored = (_stored(checkpoint, name, settings) for name in _modules(checkpoint.tensors.values()))
        return {weight.name: weight for weight in stored}

    def read(self, checkpoint: Checkpoint, stored: Stored, start: int, stop: int) -> QTensor:
        """Rows ``start..stop``."""
        block, (code_name, scale_name, *_) = stored.block, stored.entries
        raw = read_array(checkpoint, code_name, start, stop).view(np.uint8)
        height = block.tile(*stored.shape)[0]
        first, last = start // height, -(-stop // height)
        stored_as = formats.get(block.scale or "")
        scales = read_array(checkpoint, scale_name, first, last).view(code_dtype(stored_as)).reshape(last - first, -1)
        factor = _number(checkpoint, f"{module(stored.name)}.weight_scale_2") if block.tensor_scale else None
        codes = dispatch.unpack(raw, block.element_format.bits)
        return QTensor(block, codes, dispatch.decode(stored_as, scales), factor)

    def input_scale(self, checkpoint: Checkpoint, stored: Stored) -> float | None:
        """The scale of static activations."""
        return _number(checkpoint, f"{module(stored.name)}.input_scale") if stored.scheme.activation_static else None


def _number(checkpoint: Checkpoint, name: str) -> float:
    return float(read_array(checkpoint, name).reshape(()))


def _algorithm_of(scheme: Scheme) -> _Algorithm | None:
    """The algorithm that does what ``scheme`` says, whatever float type its scales have."""
    wanted = _fp32_scales(scheme.weight), scheme.activation and _fp32_scales(scheme.activation)
    for row in _ALGORITHMS.values():
        if (row.weight, row.activation) == wanted and row.static == scheme.activation_static:
            return row
    return None


def _fp32_scales(block: Block) -> Block:
    return replace(block, scale="fp32") if block.scale in FLOATS.values() else block


def _known(scheme: Scheme) -> _Algorithm:
    algorithm = _algorithm_of(scheme)
    assert algorithm is not None  # noqa: S101 - supports() comes first
    return algorithm


def _scalars(algorithm: _Algorithm) -> list[str]:
    """The tensors of one number that a module has."""
    return ["weight_scale_2"] * algorithm.weight.tensor_scale + ["input_scale"] * algorithm.static


def _used(contents: Contents) -> dict[_Algorithm, list[str]]:
    """The algorithms in use, with the modules of each."""
    used: dict[_Algorithm, list[str]] = {}
    for name, scheme in contents.quantized.items():
        used.setdefault(_known(scheme), []).append(name)
    return used


def _said(algorithms: dict[_Algorithm, list[str]], contents: Contents) -> dict[str, Any]:
    """``quantization`` of hf_quant_config.json. vLLM wants the fields that are null or empty, too."""
    cache = {"kv_cache_quant_algo": "FP8" if contents.kv else None}
    if len(algorithms) == 1:
        (algorithm,) = algorithms
        return cache | algorithm.settings | {"exclude_modules": contents.kept}
    layers = {name: _known(scheme).settings for name, scheme in contents.quantized.items()}
    return cache | {"quant_algo": MIXED, "quantized_layers": layers}


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the config says, without the envelope that ModelOpt 0.29 put around it."""
    found = checkpoint.quantization or {}
    inner = found.get("quantization")
    return inner if isinstance(inner, dict) else found


def _modules(tensors: Iterable[TensorInfo]) -> list[str]:
    """Modules that have codes or scales; those that lack the other half of it are found later."""
    named = (
        module(info.name.removesuffix("_scale"))
        for info in tensors
        if info.name.endswith(".weight_scale") or (info.name.endswith(".weight") and info.dtype in ("U8", "F8_E4M3"))
    )
    return list(dict.fromkeys(named))


def _stored(checkpoint: Checkpoint, name: str, settings: dict[str, Any]) -> Stored:
    """The weight of module ``name``. Raises CheckpointError where its tensors contradict ``settings``."""
    algorithm = _named(checkpoint, name, settings)
    if f"{name}.pre_quant_scale" in checkpoint.tensors:
        raise CheckpointError(
            f"{checkpoint.path}: the inputs of {name} are scaled by pre_quant_scale (AWQ), which halve does not read",
            hint="export the model with a format that does not smooth, such as NVFP4_DEFAULT_CFG",
        )
    codes = need(checkpoint, f"{name}.weight", algorithm.dtype)
    scales = need(checkpoint, f"{name}.weight_scale", _SCALE_DTYPE[algorithm.weight.scale or ""])
    columns = codes.columns * 8 // algorithm.weight.element_format.bits
    try:
        shapes = _scale_shapes(algorithm, codes.rows, columns)
    except FormatError as error:
        raise CheckpointError(f"{checkpoint.path}: {codes.name}: {error}", hint=_AGAIN) from None
    if len(codes.shape) != 2 or scales.shape not in shapes:
        raise CheckpointError(
            f"{checkpoint.path}: {codes.name} is {list(codes.shape)} and its scales are {list(scales.shape)}, where "
            f"{algorithm.name} has a matrix and {list(shapes[0])}",
            hint=_AGAIN,
        )
    scalars = [need(checkpoint, f"{name}.{scalar}", "F32") for scalar in _scalars(algorithm)]
    for scalar in scalars:
        if scalar.shape not in ((), (1,)):
            raise CheckpointError(
                f"{checkpoint.path}: {scalar.name} is {list(scalar.shape)}, and one number is what it should be",
                hint=_AGAIN,
            )
    unused = f"{name}.input_scale"  # ModelOpt once wrote it for W4A16_NVFP4, too
    known = dict.fromkeys((codes.name, scales.name, *(scalar.name for scalar in scalars)))
    extra = (unused,) if unused in checkpoint.tensors and unused not in known else ()
    scheme = schemes.find(algorithm.weight, algorithm.activation, static=algorithm.static)
    return Stored(codes.name, (codes.rows, columns), scheme, (*known, *extra))


def _scale_shapes(algorithm: _Algorithm, rows: int, columns: int) -> list[tuple[int, ...]]:
    """Shapes in which the scales may come, ours first. A single one loses its dimensions in ModelOpt's export."""
    shapes = [algorithm.scale_shape(rows, columns), algorithm.weight.scale_shape(rows, columns)]
    return [*shapes, (), (1,)] if prod(shapes[0]) == 1 else shapes


def _named(checkpoint: Checkpoint, name: str, settings: dict[str, Any]) -> _Algorithm:
    """The algorithm that ``settings`` names for module ``name``."""
    wanted = settings.get("quant_algo")
    if str(wanted).upper() == MIXED:
        layers = settings.get("quantized_layers")
        if not layers:
            raise CheckpointError(
                f"{checkpoint.path}: quant_algo is {MIXED}, and quantized_layers, which says what each layer is, is "
                f"neither in config.json nor in {CONFIG}",
                hint=f"ModelOpt writes it into both: fetch the {CONFIG} that belongs to these weights",
            )
        layer = layers.get(name) if isinstance(layers, dict) else None
        if not isinstance(layer, dict):
            raise CheckpointError(
                f"{checkpoint.path}: {name} is quantized, and quantized_layers does not say how", hint=_AGAIN
            )
        wanted = layer.get("quant_algo")
    algorithm = _ALGORITHMS.get(str(wanted).upper())
    if algorithm is None:
        raise CheckpointError(
            f"{checkpoint.path}: quant_algo {wanted!r} of {name} is not one that halve reads",
            hint=f"halve reads {', '.join(_ALGORITHMS)}",
        )
    return _ALGORITHMS["W4A16_NVFP4"] if algorithm.name == "NVFP4" and _weights_only(settings) else algorithm


def _weights_only(settings: dict[str, Any]) -> bool:
    """Whether "NVFP4" is said and only weights are meant: vLLM goes by the config groups, too."""
    groups = settings.get("config_groups")
    found = list(groups.values()) if isinstance(groups, dict) else []
    return bool(found) and all(isinstance(g, dict) and g.get("input_activations") is None for g in found)


LAYOUT = ModelOpt()
