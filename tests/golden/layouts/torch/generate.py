"""Write theirs.json: files that torch itself saves, as hex, with the values it finds in them.

    python tests/golden/layouts/torch/generate.py     # torch 2.13.0

Nothing of halve is imported. `tests/unit/test_torch_file.py` reads the files without torch.
"""

import io
import json
from pathlib import Path

import torch

GOLDEN = Path(__file__).with_name("theirs.json")


def states():
    """State dicts of every kind that training code saves."""
    torch.manual_seed(0)
    numbers = torch.randn(4, 6)
    dtypes = ("float64", "bfloat16", "float16", "uint8", "int8", "int16", "int32", "int64", "bool", "uint16", "uint32")
    eights = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    embedding = torch.nn.Parameter(torch.randn(5, 2))
    marked = torch.nn.Parameter(torch.randn(3))
    marked.sequence_parallel = True  # an attribute: another way to be saved
    return {
        "module": torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).state_dict(),
        "dict": {"a": numbers, "scalar": torch.tensor(1.5), "empty": torch.empty(0, 3), "parameter": marked},
        "dtypes": {name: (numbers * 3).to(getattr(torch, name)) for name in (*dtypes, *eights)}
        | {"float8_e8m0fnu": torch.arange(6, dtype=torch.uint8).view(torch.float8_e8m0fnu)},
        "views": {
            "whole": numbers,
            "rows": numbers[1:3],
            "transposed": numbers.t(),
            "columns": numbers[:, 2:4],
            "steps": numbers[::2, ::3],
            "permuted": numbers.reshape(2, 2, 6).permute(2, 0, 1),
        },
        "tied": {"lm_head.weight": embedding, "model.embed_tokens.weight": embedding},
    }


def content(save):
    """What ``save`` puts into a file."""
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue().hex()


def described(tensor):
    """Dtype, shape, and bytes row after row."""
    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return {"dtype": str(tensor.dtype), "shape": list(tensor.shape), "hex": bytes(raw.tolist()).hex()}


def build():
    """What goes into theirs.json."""
    saved = {
        name: {
            "file": content(lambda file, state=state: torch.save(state, file)),
            "tensors": {key: described(tensor) for key, tensor in state.items()},
        }
        for name, state in states().items()
    }
    legacy = content(lambda file: torch.save({"a": torch.ones(2)}, file, _use_new_zipfile_serialization=False))
    script = content(lambda file: torch.jit.save(torch.jit.script(torch.nn.ReLU()), file))
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
    return {
        "versions": {"torch": torch.__version__},
        "saved": saved,
        "refused": {
            "legacy": legacy,
            "script": script,
            "module": content(lambda file: torch.save(torch.nn.Linear(1, 1), file)),
            "training": content(lambda file: torch.save({"state_dict": {"a": torch.ones(1)}, "step": 3}, file)),
            "optimizer": content(lambda file: torch.save(optimizer.state_dict(), file)),
        },
    }


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(build(), indent=1) + "\n")
