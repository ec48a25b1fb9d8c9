"""Write LAYOUT/ours.json: the bytes that halve writes for a tiny seeded weight, for each scheme that LAYOUT holds.

    python tests/golden/layouts/ours.py awq bitsandbytes gptq torch

A scheme has its ``config`` and its ``tensors`` as hex, as they lie in the file; of the layout ``torch`` the whole file.
"""

import json
import sys
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np

import halve
from halve import layouts
from halve.checkpoint.base import TensorInfo
from halve.checkpoint.safetensors import ShardWriter, read_header
from halve.schemes import SCHEMES

HERE = Path(__file__).parent
MODULE = "model.layers.0.mlp.up_proj"


def source(folder: Path) -> Path:
    """A checkpoint of one linear weight [8, 128] in BF16."""
    weight = (np.random.default_rng(0).standard_normal((8, 128)) * 0.02).astype(ml_dtypes.bfloat16)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"torch_dtype": "bfloat16"}))
    file = ShardWriter(folder / "model.safetensors", [TensorInfo(f"{MODULE}.weight", "BF16", weight.shape)], {})
    file.write(f"{MODULE}.weight", 0, weight.tobytes())
    file.finish()
    return folder


def tensors(file: Path) -> dict[str, dict[str, object]]:
    """The tensors of a safetensors file."""
    header, raw = read_header(file), file.read_bytes()
    return {
        name: {
            "dtype": at.info.dtype,
            "shape": list(at.info.shape),
            "hex": raw[header.data_start + at.begin : header.data_start + at.end].hex(),
        }
        for name, at in header.tensors.items()
    }


def build(layout: str) -> dict[str, object]:
    """What goes into LAYOUT/ours.json."""
    written: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = source(Path(name) / "source")
        for scheme in SCHEMES.values():
            if layouts.get(layout).supports(scheme).refused or scheme.needs_calibration:
                continue
            out = Path(name) / scheme.name
            halve.quantize(folder, out, scheme.name, layout=layout)
            (file,) = [path for path in out.iterdir() if path.suffix not in (".json", ".md")]
            content = tensors(file) if file.suffix == ".safetensors" else {file.name: {"hex": file.read_bytes().hex()}}
            written[scheme.name] = {"config": json.loads((out / "config.json").read_text()), "tensors": content}
    return written


if __name__ == "__main__":
    for layout in sys.argv[1:]:
        (HERE / layout / "ours.json").write_text(json.dumps(build(layout), indent=1) + "\n")
