"""Quantize tensors as torchao's `quantize_` does, one by one; runs in the peer `torchao`.

    conform_torchao.py IN.safetensors OUT.safetensors

OUT holds, for each tensor of IN and each format, `NAME/FORMAT/codes` (one code a byte, INT4 as int8), `.../scales` in
the type in which they are stored, and for NVFP4 `.../factor`. MX scales follow the rule of the configs (rceil);
`mxfp4_floor`, the default of `MXTensor.to_mx`, and `mxfp4_even` are formats of their own. NVFP4 and MX take no FP16.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.mx_tensor import MXTensor
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale
from torchao.quantization import Float8Tensor, Int8Tensor, IntxUnpackedToInt8Tensor
from torchao.quantization.granularity import PerRow, PerTensor

Parts = dict[str, torch.Tensor]


def _nvfp4(weight: torch.Tensor) -> Parts:
    factor = per_tensor_amax_to_scale(weight.abs().max())
    tensor = NVFP4Tensor.to_nvfp4(weight, per_tensor_scale=factor)
    return {"codes": _nibbles(tensor.qdata), "scales": tensor.scale, "factor": factor}


def _mx(rule: str, element: torch.dtype) -> Callable[[torch.Tensor], Parts]:
    def quantized(weight: torch.Tensor) -> Parts:
        tensor = MXTensor.to_mx(weight, element, 32, scaling_mode=ScaleCalculationMode(rule))
        codes = tensor.qdata if element is torch.float8_e4m3fn else _nibbles(tensor.qdata.view(torch.uint8))
        return {"codes": codes, "scales": tensor.scale.view(torch.uint8)}

    return quantized


def _nibbles(packed: torch.Tensor) -> torch.Tensor:
    return torch.stack((packed & 15, packed >> 4), -1).flatten(-2)


def _of(tensor: torch.Tensor) -> Parts:
    return {"codes": tensor.qdata, "scales": tensor.scale}


FORMATS: dict[str, Callable[[torch.Tensor], Parts]] = {
    "nvfp4": _nvfp4,
    "mxfp4": _mx("rceil", torch.float4_e2m1fn_x2),
    "mxfp4_floor": _mx("floor", torch.float4_e2m1fn_x2),
    "mxfp4_even": _mx("even", torch.float4_e2m1fn_x2),
    "mxfp8": _mx("rceil", torch.float8_e4m3fn),
    "fp8_row": lambda weight: _of(Float8Tensor.from_hp(weight, granularity=PerRow())),
    "fp8_tensor": lambda weight: _of(Float8Tensor.from_hp(weight, granularity=PerTensor())),
    "int8_row": lambda weight: _of(Int8Tensor.from_hp(weight, PerRow())),
    "int4": lambda weight: _of(IntxUnpackedToInt8Tensor.from_hp(weight, (1, 128), torch.int4)),
}


def main() -> None:
    """Quantize every tensor to every format."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("source", type=Path, metavar="IN")
    parser.add_argument("out", type=Path, metavar="OUT")
    args = parser.parse_args()
    found = {}
    for name, weight in load_file(args.source).items():
        for fmt, quantized in FORMATS.items():
            if weight.dtype == torch.float16 and fmt.startswith(("nvfp4", "mx")):
                continue
            found |= {f"{name}/{fmt}/{part}": array.contiguous() for part, array in quantized(weight).items()}
    save_file(found, args.out)


if __name__ == "__main__":
    main()
