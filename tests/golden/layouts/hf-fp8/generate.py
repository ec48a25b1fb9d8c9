"""Write transformers.json: FP8 weights as transformers makes them on a CPU, and the values that it gives them.

    pip install torch==2.13.0 transformers==5.17.0 accelerate
    python tests/golden/layouts/hf-fp8/generate.py

Nothing of halve is imported. Each case has the quantization_config, the tensors of one module as hex, and the sha256 of
the values in BF16.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import FineGrainedFP8Config
from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize

GOLDEN = Path(__file__).with_name("transformers.json")
DTYPES = {torch.float8_e4m3fn: "F8_E4M3", torch.float32: "F32", torch.float8_e8m0fnu: "F8_E8M0", torch.uint8: "U8"}
MODULE = "model.layers.0.mlp.up_proj"
CASES = {  # shape, tile, kind of scales
    "fp8_block": ([128, 128], [128, 128], "float"),
    "tiles": ([16, 48], [8, 16], "float"),
    "one scale a tensor": ([16, 48], None, "float"),
    "tiles under powers of two": ([16, 48], [8, 16], "ue8m0"),
    "MXFP8": ([4, 96], [1, 32], "ue8m0"),
}


def described(tensor: torch.Tensor) -> dict[str, object]:
    """Type, shape and bytes."""
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "hex": raw.hex()}


def cases() -> Iterator[tuple[str, dict[str, object]]]:
    """The content of the golden file."""
    torch.manual_seed(0)
    for name, (shape, tile, scale_fmt) in CASES.items():
        config = FineGrainedFP8Config(weight_block_size=tile, scale_fmt=scale_fmt)
        quantizer = SimpleNamespace(quantization_config=config)
        tensors = Fp8Quantize(quantizer).convert({f"{MODULE}.weight": torch.randn(*shape)})
        scales = tensors[f"{MODULE}.weight_scale_inv"]
        values = Fp8Dequantize(quantizer)._dequantize_one(tensors[f"{MODULE}.weight"], scales, torch.bfloat16)
        yield (
            name,
            {
                "quantization_config": {
                    "quant_method": "fp8",
                    "activation_scheme": "dynamic",
                    "weight_block_size": tile,
                    "modules_to_not_convert": ["lm_head"],
                },
                "tensors": {name: described(tensor) for name, tensor in tensors.items()},
                "sha256": hashlib.sha256(values.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest(),
            },
        )


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(dict(cases()), indent=1) + "\n")
