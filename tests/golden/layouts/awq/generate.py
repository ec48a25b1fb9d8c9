"""Write theirs.json: weights that auto-round packs as AutoAWQ does (its code is AutoAWQ's), and their values.

    pip install torch==2.13.0 transformers==5.17.0 auto-round==0.15.1
    python tests/golden/layouts/awq/generate.py

Nothing of halve is imported. A case is a module of random codes, scales and zero points: its tensors as hex, its
config, and the sha256 of its values [out, in] in FP32.
"""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import torch
from auto_round.export.export_to_awq.utils import WQLinear_GEMM, dequantize_gemm

GOLDEN = Path(__file__).with_name("theirs.json")
DTYPES = {torch.int32: "I32", torch.float16: "F16"}


def described(tensor):
    """Dtype, shape, and bytes as hex."""
    raw = tensor.contiguous().reshape(-1).view(torch.uint8)
    return {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "hex": bytes(raw.tolist()).hex()}


def case(group_size, zero_point, *, columns=64, rows=32):
    """A module packed by auto-round."""
    generator = torch.Generator().manual_seed(group_size + zero_point)
    size = group_size if group_size > 0 else columns
    codes = torch.randint(0, 16, (rows, columns), generator=generator)
    scales = (torch.rand(columns // size, rows, generator=generator) * 0.01 + 1e-3).half().float()
    zeros = torch.randint(0, 16, scales.shape, generator=generator) if zero_point else torch.full(scales.shape, 8)
    linear = torch.nn.Linear(columns, rows, bias=False)
    spread = [numbers.T.repeat_interleave(size, 1) for numbers in (zeros, scales)]
    linear.weight.data = (codes - spread[0]) * spread[1]
    packed = WQLinear_GEMM.from_linear(linear, 4, group_size, scales=scales, zeros=zeros, device="cpu")
    values = dequantize_gemm(packed.qweight, packed.qzeros, packed.scales.float(), 4, size).T.contiguous()
    return {
        "quantization_config": {
            "quant_method": "awq",
            "bits": 4,
            "group_size": group_size,
            "zero_point": zero_point,
            "version": "gemm",
        },
        "tensors": {part: described(getattr(packed, part)) for part in ("qweight", "qzeros", "scales")},
        "shape": [rows, columns],
        "sha256": hashlib.sha256(values.numpy().tobytes()).hexdigest(),
    }


def build():
    """What goes into theirs.json."""
    cases = {
        f"groups of {size}, {'zero points' if zero_point else 'no zero points'}": case(size, zero_point)
        for size in (16, 32, -1)
        for zero_point in (True, False)
    }
    return {"versions": {"auto-round": version("auto-round"), "torch": torch.__version__}, "cases": cases}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(build(), indent=1) + "\n")
