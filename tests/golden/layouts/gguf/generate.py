"""Write theirs.json: blocks that the `gguf` package quantizes, and the values that it gives them.

    pip install gguf==0.19.0
    python tests/golden/layouts/gguf/generate.py

Nothing of halve is imported. The weight is [8, 128] Gaussian numbers. Of NVFP4, which the package only dequantizes, the
blocks are random: any codes under any scales but 0 and NaN. ``sha256`` is of the values in FP32, zeros being positive.
"""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import quants

GOLDEN = Path(__file__).with_name("theirs.json")
ROWS, COLUMNS = 8, 128


def weight():
    """The numbers that are quantized."""
    return (np.random.default_rng(0).standard_normal((ROWS, COLUMNS)) * 0.02).astype(np.float32)


def random_nvfp4():
    """Blocks of 64: four scales, then codes."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (ROWS, COLUMNS // 64, 36), dtype=np.uint8)
    blocks[:, :, :4] = rng.integers(1, 127, (ROWS, COLUMNS // 64, 4))
    return blocks.reshape(ROWS, -1)


def main():
    """Quantize, dequantize, write."""
    blocks = {kind.name: quants.quantize(weight(), kind) for kind in (Type.Q4_0, Type.Q4_1, Type.Q8_0, Type.MXFP4)}
    blocks["NVFP4"] = random_nvfp4()
    content = {
        name: {
            "shape": list(raw.shape),
            "hex": raw.tobytes().hex(),
            "sha256": hashlib.sha256((quants.dequantize(raw, Type[name]) + np.float32(0)).tobytes()).hexdigest(),
        }
        for name, raw in blocks.items()
    }
    GOLDEN.write_text(json.dumps({"gguf": version("gguf"), "blocks": content}, indent=1) + "\n")


if __name__ == "__main__":
    main()
