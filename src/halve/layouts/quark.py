"""``quark``: AMD Quark's OCP MX checkpoints, the one layout in which vLLM reads FP6.

Module X has ``X.weight`` (FP4 and FP6: U8 [out, in*bits/8], codes end to end, lowest bits first, so four FP6 codes fill
three bytes; FP8: F8_E4M3 [out, in]) and ``X.weight_scale`` U8 [out, in/32], E8M0. Facts read from amd-quark's
``torch/utils/pack.py`` and from vLLM's ``quantization/quark``.
"""

from fnmatch import fnmatch
from typing import Any, ClassVar

from numpy.typing import NDArray

from halve import formats, schemes
from halve.checkpoint.base import DTYPES, Checkpoint, TensorInfo, read_array
from halve.codecs import dispatch
from halve.errors import CheckpointError
from halve.layouts.base import Contents, Layout, Stored, Support, module, need, quant_method
from halve.schemes import Block, Scheme
from halve.schemes.qtensor import QTensor

METHOD = "quark"
_BLOCK = 32
_DTYPE = {"fp4_e2m1": "fp4", "fp6_e2m3": "fp6_e2m3", "fp6_e3m2": "fp6_e3m2", "fp8_e4m3": "fp8_e4m3"}  # Quark's names


class Quark(Layout):
    """A ``global_quant_config``, exceptions by name; what stays in 16 bits is listed under ``exclude``."""

    name: ClassVar[str] = METHOD
    about: ClassVar[str] = "AMD Quark's OCP MX, which vLLM reads"
    whole_experts: ClassVar[bool] = True

    def supports(self, scheme: Scheme) -> Support:
        """The MX formats only."""
        if scheme.weight.scale != "e8m0" or scheme.weight.element not in _DTYPE:
            return Support("it holds the OCP MX schemes only")
        return Support(engines=("vLLM 0.32", "transformers 5.17 + amd-quark 0.13"))

    def entries(self, weight: TensorInfo, scheme: Scheme) -> list[TensorInfo]:
        """Codes and scales."""
        name, bits = module(weight.name), scheme.weight.element_format.bits
        scales = scheme.weight.scale_shape(weight.rows, weight.columns)
        return [
            TensorInfo(f"{name}.weight", _dtype(bits), (weight.rows, weight.columns * bits // 8)),
            TensorInfo(f"{name}.weight_scale", "U8", scales),
        ]

    def write(
        self, weight: TensorInfo, scheme: Scheme, q: QTensor, first_row: int, input_scale: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """A band of rows."""
        del scheme, first_row, input_scale
        name, bits = module(weight.name), q.block.element_format.bits
        return {
            f"{name}.weight": dispatch.pack(q.codes, bits).view(DTYPES[_dtype(bits)]),
            f"{name}.weight_scale": dispatch.encode(formats.get("e8m0"), q.scales),
        }

    def config(self, contents: Contents) -> dict[str, Any]:
        """``quantization_config`` as Quark's Hugging Face export writes it; modules of a second scheme by name."""
        used = list(contents.quantized.values())
        overall = max(used, key=used.count)
        return {
            "quantization_config": {
                "quant_method": METHOD,
                "global_quant_config": _layer_config(overall),
                "layer_quant_config": {
                    name: _layer_config(scheme) for name, scheme in contents.quantized.items() if scheme != overall
                },
                "layer_type_quant_config": {},
                "exclude": contents.kept,
                "algo_config": None,
                "quant_mode": "eager_mode",
                "export": {"kv_cache_group": [], "pack_method": "reorder", "weight_format": "real_quantized"},
            }
        }

    def detect(self, checkpoint: Checkpoint) -> bool:
        """By ``quant_method``."""
        return quant_method(checkpoint) == METHOD

    def open(self, checkpoint: Checkpoint) -> dict[str, Stored]:
        """The quantized weights: every module that has a ``weight_scale``."""
        config = checkpoint.quantization or {}
        found = {}
        for scale in [name for name in checkpoint.tensors if name.endswith(".weight_scale")]:
            name = scale.removesuffix(".weight_scale")
            scheme = _scheme(checkpoint, _config_of(name, config))
            bits = scheme.weight.element_format.bits
            codes = need(checkpoint, f"{name}.weight", _dtype(bits))
            shape = (codes.rows, codes.columns * 8 // bits)
            need(checkpoint, scale, "U8", (shape[0], shape[1] // _BLOCK))
            found[codes.name] = Stored(codes.name, shape, scheme, (codes.name, scale))
        return found

    def read(self, checkpoint: Checkpoint, stored: Stored, start: int, stop: int) -> QTensor:
        """Rows ``start..stop``."""
        bits = stored.block.element_format.bits
        codes_name, scales_name = stored.entries
        codes = dispatch.unpack(read_array(checkpoint, codes_name, start, stop).view("u1"), bits)
        scales = dispatch.decode(formats.get("e8m0"), read_array(checkpoint, scales_name, start, stop))
        return QTensor(stored.block, codes, scales)


def _dtype(bits: int) -> str:
    return "F8_E4M3" if bits == 8 else "U8"


def _layer_config(scheme: Scheme) -> dict[str, Any]:
    return {
        "weight": _tensor_config(scheme.weight, dynamic=False),
        "input_tensors": scheme.activation and _tensor_config(scheme.activation, dynamic=True),
        "output_tensors": None,
        "bias": None,
    }


def _tensor_config(block: Block, *, dynamic: bool) -> dict[str, Any]:
    return {
        "dtype": _DTYPE[block.element],
        "is_dynamic": dynamic,
        "qscheme": "per_group",
        "group_size": block.block_size,
        "ch_axis": -1,
        "symmetric": None,
        "round_method": "half_even",
        "scale_type": "float",
        "scale_format": "e8m0",
        "scale_calculation_mode": "even",  # of activations; weight scales are read as they are, whatever made them
        "mx_element_dtype": None,
        "observer_cls": "PerBlockMXObserver",
        "is_scale_quant": False,
    }


def _config_of(name: str, config: dict[str, Any]) -> object:
    """What ``config`` says of the module ``name``: the first pattern that names it, else what it says of all."""
    layers = config.get("layer_quant_config")
    for pattern, layer in layers.items() if isinstance(layers, dict) else ():
        if fnmatch(name, pattern):
            return layer
    return config.get("global_quant_config")


def _scheme(checkpoint: Checkpoint, layer: object) -> Scheme:
    weight, inputs = (layer.get("weight"), layer.get("input_tensors")) if isinstance(layer, dict) else (None, None)
    block, activation = _block(weight), _block(inputs)
    if block is None or (inputs is not None and activation is None):
        raise CheckpointError(
            f"{checkpoint.path}: quantization_config describes a module that is not in an OCP MX format: {layer}",
            hint="halve reads Quark's per_group e8m0 exports of fp4, fp6 and fp8_e4m3",
        )
    return schemes.find(block, activation)


def _block(weight: object) -> Block | None:
    match weight:
        case {"dtype": str(dtype), "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0"}:
            element = next((name for name, quark in _DTYPE.items() if quark == dtype), None)
            return Block(element=element, scale="e8m0", block_size=_BLOCK) if element else None
    return None


LAYOUT = Quark()
