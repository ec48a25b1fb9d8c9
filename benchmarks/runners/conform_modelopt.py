"""Quantize tensors as ModelOpt's export of Hugging Face checkpoints does, one by one; runs in the peer `modelopt`.

    conform_modelopt.py IN.safetensors OUT.safetensors

OUT holds, for each tensor of IN and each format, `NAME/FORMAT/codes` (one code a byte, INT4 as int8), `.../scales` in
the type in which they are stored, and for NVFP4 `.../factor`.
"""

import argparse
import copy
import os
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export.unified_export_hf import _export_quantized_weight
from safetensors.torch import load_file, save_file

CONFIGS = {
    "nvfp4": mtq.W4A16_NVFP4_CFG,
    "mxfp4": mtq.MXFP4_DEFAULT_CFG,
    "mxfp8": mtq.MXFP8_DEFAULT_CFG,
    "fp8_row": mtq.FP8_PER_CHANNEL_PER_TOKEN_CFG,
    "fp8_tensor": mtq.FP8_DEFAULT_CFG,
    "int8_row": mtq.INT8_WEIGHT_ONLY_CFG,
    "int4": mtq.INT4_BLOCKWISE_WEIGHT_ONLY_CFG,
}


def quantized(weight: torch.Tensor, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """What the tool would store, codes unpacked."""
    linear = torch.nn.Linear(*reversed(weight.shape), bias=False, dtype=weight.dtype)
    linear.weight.data.copy_(weight)
    module = mtq.quantize(torch.nn.Sequential(linear), copy.deepcopy(CONFIGS[name]))[0]
    _export_quantized_weight(module, weight.dtype)
    stored = module.state_dict()
    codes = stored["weight"]
    if name == "int4":  # pairs of rows share a byte
        rows = torch.stack((codes & 15, codes >> 4), 1).flatten(0, 1)
        codes = (rows.to(torch.int8) ^ 8) - 8
    elif codes.shape != weight.shape:
        codes = torch.stack((codes & 15, codes >> 4), -1).flatten(-2)
    yield "codes", codes
    yield "scales", stored["weight_scale"]
    if "weight_scale_2" in stored:
        yield "factor", stored["weight_scale_2"]


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
            for fmt in CONFIGS
            for part, array in quantized(weight, fmt)
        },
        args.out,
    )


if __name__ == "__main__":
    main()
