"""Write theirs.json: weights that bitsandbytes quantizes, and the values that it gives its codes.

    pip install torch==2.13.0 bitsandbytes==0.50.2
    python tests/golden/layouts/bitsandbytes/generate.py

Nothing of halve is imported. A case is a module: the state dict that transformers saves as hex, its config, and of its
values the sha256 in BF16 (4 bits), or all of them in FP32 as hex (8 bits).
"""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from bitsandbytes.functional import (
    dequantize_4bit,
    dequantize_blockwise,
    int8_vectorwise_dequant,
    int8_vectorwise_quant,
    quantize_4bit,
)

GOLDEN = Path(__file__).with_name("theirs.json")
DTYPES = {torch.uint8: "U8", torch.int8: "I8", torch.float32: "F32", torch.bfloat16: "BF16"}


def hexed(tensor):
    """The bytes of ``tensor`` as hex."""
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist()).hex()


def described(tensor):
    """Dtype, shape, and bytes as hex."""
    return {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "hex": hexed(tensor)}


def values(codes, state):
    """What bitsandbytes makes of 4-bit codes.

    Its CPU kernel (0.50.2) starts a block at every row, which its quantizer, its GPU kernels and its implementation
    for all other devices do not: where the block size does not divide the columns that one is asked.
    """
    scales = dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
    raw = codes.view(torch.uint8).reshape(-1)
    found = _dequantize_4bit_compute(raw, scales, state.code, state.blocksize, state.shape, state.dtype)
    if state.shape[-1] % state.blocksize == 0:
        assert torch.equal(found, dequantize_4bit(codes, state))
    return found


def four_bits(kind, shape, *, nested=False, block_size=64, storage=torch.uint8, seed=0):
    """A weight of 4 bits."""
    torch.manual_seed(seed)
    weight = torch.randn(shape).to(torch.bfloat16) * 0.02
    codes, state = quantize_4bit(
        weight, quant_type=kind, blocksize=block_size, compress_statistics=nested, quant_storage=storage
    )
    parts = {f"weight.{name}": tensor for name, tensor in state.as_dict(packed=True).items()}
    return {
        "quantization_config": {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "bnb_4bit_quant_type": kind,
            "bnb_4bit_use_double_quant": nested,
        },
        "tensors": {name: described(tensor) for name, tensor in ({"weight": codes} | parts).items()},
        "shape": list(shape),
        "sha256": hashlib.sha256(bytes.fromhex(hexed(values(codes, state)))).hexdigest(),
    }


def eight_bits():
    """A weight of LLM.int8."""
    torch.manual_seed(0)
    codes, scales, _ = int8_vectorwise_quant(torch.randn(8, 64).to(torch.float16))
    parts = {"weight": codes, "SCB": scales, "weight_format": torch.zeros((), dtype=torch.uint8)}
    return {
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "tensors": {name: described(tensor) for name, tensor in parts.items()},
        "shape": [8, 64],
        "values": hexed(int8_vectorwise_dequant(codes, scales)),
    }


def build():
    """What goes into theirs.json."""
    cases = {
        "nf4": four_bits("nf4", (8, 128)),
        "nf4, blocks of 128": four_bits("nf4", (4, 256), block_size=128),
        "nf4, double": four_bits("nf4", (160, 128), nested=True),  # two blocks of 256 scales
        "nf4, in bf16": four_bits("nf4", (8, 128), storage=torch.bfloat16),
        "nf4, blocks across rows": four_bits("nf4", (6, 96), nested=True),
        "nf4, a last block of 32": four_bits("nf4", (5, 96)),
        "nf4, rows of 50": four_bits("nf4", (7, 50)),
        "fp4": four_bits("fp4", (8, 128)),
        "fp4, double": four_bits("fp4", (8, 128), nested=True),
        "int8": eight_bits(),
    }
    return {"versions": {"bitsandbytes": version("bitsandbytes"), "torch": torch.__version__}, "cases": cases}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(build(), indent=1) + "\n")
