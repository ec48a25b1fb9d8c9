"""Write ours.json: for each scheme, the bytes that halve makes of a tiny seeded weight, and the hash of a whole file.

PYTHONPATH=tests python tests/golden/layouts/gguf/ours.py
"""

import hashlib
import json
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np

import halve
from halve import layouts
from halve.checkpoint.base import TensorInfo
from halve.schemes import SCHEMES, get
from halve.schemes.quantize import absmax, quantize, tensor_scale
from tiny import llama

GOLDEN = Path(__file__).with_name("ours.json")
LAYOUT = layouts.get("gguf")
WEIGHT = TensorInfo("model.layers.0.mlp.up_proj.weight", "BF16", (8, 128))
HELD = [scheme.name for scheme in SCHEMES.values() if not LAYOUT.supports(scheme).refused]
INPUT_SCALE = 0.03125


def tensors(name: str) -> dict[str, str]:
    """What becomes of a Gaussian weight [8, 128] in BF16: entry -> hex."""
    w = (np.random.default_rng(0).standard_normal(WEIGHT.shape) * 0.02).astype(ml_dtypes.bfloat16)
    scheme = LAYOUT.bind(get(name), "BF16")
    q = quantize(scheme.weight, w, tensor_scale=tensor_scale(scheme.weight, absmax(w)))
    found = LAYOUT.write(WEIGHT, scheme, q, 0, INPUT_SCALE if scheme.activation_static else None)
    return {entry: array.tobytes().hex() for entry, array in found.items()}


def whole(name: str, folder: Path) -> str:
    """Hash of the file of a random Llama of two layers."""
    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "head_dim": 32}
    source = llama.write_decoder(folder / f"source-{name}", llama.decoder_config("llama", **sizes))
    halve.quantize(source, folder / name, name, layout="gguf")
    return hashlib.sha256((folder / name / "model.gguf").read_bytes()).hexdigest()


def build() -> dict[str, object]:
    """What goes into ours.json."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            name: {"tensors": tensors(name)}
            | ({} if get(name).needs_calibration else {"file": whole(name, Path(folder))})
            for name in HELD
        }


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(build(), indent=1) + "\n")
