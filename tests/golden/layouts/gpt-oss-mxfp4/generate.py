"""Write transformers.json: packed experts, and the values that transformers gives them.

    pip install torch==2.13.0 transformers==5.17.0
    python tests/golden/layouts/gpt-oss-mxfp4/generate.py

Nothing of halve is imported. ``sha256`` is of
BF16 values [experts, in, out], the transpose of what is stored, zeros being positive.
"""

import hashlib
import json
from pathlib import Path

import torch
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

GOLDEN = Path(__file__).with_name("transformers.json")
EXPERTS = "model.layers.0.mlp.experts"
SHAPES = {"gate_up_proj": (3, 16, 2), "down_proj": (3, 64, 1)}  # experts, rows, blocks: 64 columns in, 32 within


def described(tensor: torch.Tensor) -> dict[str, object]:
    """Type, shape and bytes."""
    return {"dtype": "U8", "shape": list(tensor.shape), "hex": tensor.numpy().tobytes().hex()}


def main() -> None:
    """Random codes; scales from the middle of the range, in the last projection from all of it but 0xFF, a NaN."""
    torch.manual_seed(0)
    tensors, hashes = {}, {}
    for projection, shape in SHAPES.items():
        blocks = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8)
        scales = torch.randint(118, 130, shape, dtype=torch.uint8)
        if projection == "down_proj":
            scales = (torch.arange(scales.numel()) * 4 % 255).to(torch.uint8).reshape(shape)
        values = convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16) + 0
        hashes[projection] = hashlib.sha256(values.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for part, tensor in (("blocks", blocks), ("scales", scales)):
            tensors[f"{EXPERTS}.{projection}_{part}"] = described(tensor)
    GOLDEN.write_text(json.dumps({"tensors": tensors, "sha256": hashes}, indent=1) + "\n")


if __name__ == "__main__":
    main()
