"""``quark``: AMD Quark's OCP MX checkpoints, the one layout in which vLLM reads FP6.

Module X has ``X.weight`` (FP4 and FP6: U8 [out, in*bits/8], codes end to end, lowest bits first, so four FP6 codes fill
three bytes; FP8: F8_E4M3 [out, in]) and ``X.weight_scale`` U8 [out, in/32], E8M0. Facts read from amd-quark's
``torch/utils/pack.py`` and from vLLM's ``quantization/quark``.
"""

from typing import Any, ClassVar

from numpy.typing import NDArray

from halve import formats
from halve.checkpoint.base import DTYPES, Checkpoint, TensorInfo, read_array
from halve.codecs import dispatch
from halve.errors import CheckpointError
from halve.layouts.base import Layout, Stored, module, need
from halve.schemes import Block, Scheme
from halve.schemes.qtensor import QTensor

_BLOCK = 32
_DTYPE = {"fp4_e2m1": "fp4", "fp6_e2m3": "fp6_e2m3", "fp6_e3m2": "fp6_e3m2", "fp8_e4m3": "fp8_e4m3"}  # Quark's names


class Quark(Layout):
    """One ``global_quant_config`` for all linear modules; what stays in 16 bits is listed under ``exclude``."""

    name: ClassVar[str] = "quark"
    about: ClassVar[str] = "AMD Quark's OCP MX, which vLLM reads"

    def refusal(self, scheme: Scheme) -> str:
        """The MX formats only."""
        if scheme.weight.scale != "e8m0" or scheme.weight.element not in _DTYPE:
            return "it holds the OCP MX schemes only"
        return ""

    def entries(self, weight: TensorInfo, scheme: Scheme) -> list[TensorInfo]:
        """Codes and scales."""
        name, bits = module(weight.name), scheme.weight.element_format.bits
        scales = scheme.weight.scale_shape(weight.rows, weight.columns)
        return [
            TensorInfo(f"{name}.weight", _dtype(bits), (weight.rows, weight.columns * bits // 8)),
            TensorInfo(f"{name}.weight_scale", "U8", scales),
        ]

    def write(self, weight: TensorInfo, scheme: Scheme, q: QTensor, first_row: int) -> dict[str, NDArray[Any]]:
        """A band of rows."""
        del scheme, first_row
        name, bits = module(weight.name), q.block.element_format.bits
        return {
            f"{name}.weight": dispatch.pack(q.codes, bits).view(DTYPES[_dtype(bits)]),
            f"{name}.weight_scale": dispatch.encode(formats.get("e8m0"), q.scales),
        }

    def config(self, scheme: Scheme, quantized: list[str], kept: list[str]) -> dict[str, Any]:
        """``quantization_config`` as Quark's Hugging Face export writes it."""
        del quantized
        weight = _tensor_config(scheme.weight, dynamic=False)
        activation = scheme.activation and _tensor_config(scheme.activation, dynamic=True)
        return {
            "quantization_config": {
                "quant_method": "quark",
                "global_quant_config": {
                    "weight": weight,
                    "input_tensors": activation,
                    "output_tensors": None,
                    "bias": None,
                },
                "layer_quant_config": {},
                "layer_type_quant_config": {},
                "exclude": kept,
                "algo_config": None,
                "quant_mode": "eager_mode",
                "export": {"kv_cache_group": [], "pack_method": "reorder", "weight_format": "real_quantized"},
            }
        }

    def detect(self, config: dict[str, Any]) -> bool:
        """By ``quant_method``."""
        found = config.get("quantization_config")
        return isinstance(found, dict) and found.get("quant_method") == "quark"

    def open(self, checkpoint: Checkpoint) -> dict[str, Stored]:
        """The quantized weights: every module that has a ``weight_scale``."""
        overall = checkpoint.config["quantization_config"].get("global_quant_config")
        block = _block(overall.get("weight") if isinstance(overall, dict) else None)
        if block is None:
            raise CheckpointError(
                f"{checkpoint.path}: global_quant_config is not an OCP MX format: {overall}",
                hint="halve reads Quark's per_group e8m0 exports of fp4, fp6 and fp8_e4m3",
            )
        bits = block.element_format.bits
        found = {}
        for scale in [name for name in checkpoint.tensors if name.endswith(".weight_scale")]:
            codes = need(checkpoint, f"{scale.removesuffix('.weight_scale')}.weight", _dtype(bits))
            shape = (codes.rows, codes.columns * 8 // bits)
            need(checkpoint, scale, "U8", (shape[0], shape[1] // _BLOCK))
            found[codes.name] = Stored(codes.name, shape, block, (codes.name, scale))
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


def _block(weight: object) -> Block | None:
    match weight:
        case {"dtype": str(dtype), "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0"}:
            element = next((name for name, quark in _DTYPE.items() if quark == dtype), None)
            return Block(element=element, scale="e8m0", block_size=_BLOCK) if element else None
    return None


LAYOUT = Quark()
