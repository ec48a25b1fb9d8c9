"""Write logits.npz and versions.json: transformers' logits of the decoders in tests/tiny/families.py. See README.md."""

import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from tiny import families, llama

HERE = Path(__file__).parent


def logits(folder: Path, tokens: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> "np.ndarray":
    """What transformers computes in float32, with its plain attention."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        found: np.ndarray = model(torch.from_numpy(tokens)[None]).logits[0].numpy()
    return found


def main() -> None:
    """One array a decoder."""
    arrays = {}
    for name in families.DECODERS:
        config = families.config_of(name)
        with tempfile.TemporaryDirectory() as folder:
            arrays[name] = logits(families.write(Path(folder), config), llama.decoder_tokens(config))
    np.savez_compressed(HERE / "logits.npz", **arrays)
    versions = {package: version(package) for package in ("torch", "transformers", "numpy")}
    (HERE / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")


if __name__ == "__main__":
    main()
