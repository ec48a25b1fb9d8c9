"""Checkpoint folders of any content, mislabelled ones included."""

import json
from pathlib import Path

import numpy as np

from halve.checkpoint.base import TensorInfo
from halve.checkpoint.hf import HfCheckpoint
from halve.checkpoint.safetensors import ShardWriter


def write(folder: Path, config, tensors, *, others=None):
    """Write ``tensors``, name -> (dtype, shape, bytes), with a config.json and ``others``, name -> JSON; open it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name, content in (others or {}).items():
        (folder / name).write_text(json.dumps(content))
    entries = [TensorInfo(name, dtype, tuple(shape)) for name, (dtype, shape, _) in tensors.items()]
    (folder / "model.safetensors").unlink(missing_ok=True)
    file = ShardWriter(folder / "model.safetensors", entries, {"format": "pt"})
    for name, (_, _, data) in tensors.items():
        file.write(name, 0, data)
    file.finish()
    return HfCheckpoint(folder)


def tensors(golden):
    """Tensors of a golden file, whose bytes are hex."""
    return {name: (t["dtype"], t["shape"], bytes.fromhex(t["hex"])) for name, t in golden.items()}


def pieces(layout, weight, scheme, bands, *, input_scale=None):
    """What ``layout`` writes of (first row, QTensor) ``bands``: tensors as `write` takes them, and their entries."""
    found = {entry.name: b"" for entry in layout.entries(weight, scheme)}
    for first_row, q in bands:
        for name, array in layout.write(weight, scheme, q, first_row, input_scale).items():
            found[name] += np.ascontiguousarray(array).tobytes()
    return {entry.name: (entry.dtype, entry.shape, found[entry.name]) for entry in layout.entries(weight, scheme)}
