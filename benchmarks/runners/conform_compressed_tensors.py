"""Quantize tensors as llm-compressor's model_free_ptq does, one by one; runs in the peer `llm-compressor`.

    conform_compressed_tensors.py IN.safetensors OUT.safetensors

OUT holds, for each tensor of IN and each format, `NAME/FORMAT/codes` (one code a byte, INT4 as int8), `.../scales` in
the type in which they are stored, for NVFP4 `.../divisor` and for INT4 with a zero point `.../zeros`.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["LLM_COMPRESSOR_LOG_LEVEL"] = os.environ["COMPRESSED_TENSORS_LOG_LEVEL"] = "ERROR"  # they log to stdout

import torch
from compressed_tensors.compressors import compress_module
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme
from llmcompressor.entrypoints.model_free.lifecycle import calibrate_weight, initialize_quantized_linear
from safetensors.torch import load_file, save_file

PRESETS = {
    "nvfp4": "NVFP4A16",
    "mxfp4": "MXFP4A16",
    "mxfp8": "MXFP8A16",
    "fp8_row": "FP8_DYNAMIC",
    "int8_row": "W8A8",
    "int4": "W4A16",
    "uint4": "W4A16_ASYM",
}
PER_TENSOR = QuantizationArgs(num_bits=8, type="float", strategy="tensor", symmetric=True, dynamic=False)
SCHEMES = {name: preset_name_to_scheme(preset, ["Linear"]) for name, preset in PRESETS.items()} | {
    "fp8_tensor": QuantizationScheme(targets=["Linear"], weights=PER_TENSOR)
}


def quantized(weight: torch.Tensor, scheme: QuantizationScheme) -> Iterator[tuple[str, torch.Tensor]]:
    """What the tool would store, codes unpacked."""
    module = initialize_quantized_linear(weight, scheme, "cpu")
    calibrate_weight(module)
    compress_module(module)
    stored = module.state_dict()
    yield "scales", stored["weight_scale"]
    if "weight_shape" in stored:
        yield "codes", unpack_from_int32(stored["weight_packed"], 4, weight.shape)
    elif "weight_packed" in stored:
        yield "codes", torch.stack((stored["weight_packed"] & 15, stored["weight_packed"] >> 4), -1).flatten(-2)
    else:
        yield "codes", stored["weight"]
    if "weight_global_scale" in stored:
        yield "divisor", stored["weight_global_scale"]
    if "weight_zero_point" in stored:
        zeros = unpack_from_int32(stored["weight_zero_point"], 4, stored["weight_scale"].shape, packed_dim=0)
        yield "zeros", zeros


def main() -> None:
    """Quantize every tensor to every format."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("source", type=Path, metavar="IN")
    parser.add_argument("out", type=Path, metavar="OUT")
    args = parser.parse_args()
    save_file(
        {
            f"{name}/{fmt}/{part}": array.detach().contiguous()
            for name, weight in load_file(args.source).items()
            for fmt, scheme in SCHEMES.items()
            for part, array in quantized(weight, scheme)
        },
        args.out,
    )


if __name__ == "__main__":
    main()
