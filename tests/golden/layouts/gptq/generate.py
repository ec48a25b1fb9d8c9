"""Write theirs.json: weights that GPTQModel packs, and the values that it gives its codes.

    pip install torch==2.13.0 transformers==5.17.0 torchvision safetensors
    pip install --no-deps gptqmodel==7.2.0 device-smi logbar tokenicer pypcre defuser threadpoolctl
    python tests/golden/layouts/gptq/generate.py

Nothing of halve is imported. A case is a module of random codes, scales and zero points (0 among them, whose storage
less one borrows from its neighbour): its tensors as hex, its config, and the sha256 of its values [out, in] in FP32.
"""

import hashlib
import json
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import gptqmodel
import torch
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module, convert_gptq_v2_to_v1_format_module

GOLDEN = Path(__file__).with_name("theirs.json")
DTYPES = {torch.int32: "I32", torch.float16: "F16"}


def described(tensor):
    """Dtype, shape, and bytes as hex."""
    raw = tensor.contiguous().reshape(-1).view(torch.uint8)
    return {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "hex": bytes(raw.tolist()).hex()}


def groups(kind, columns, size, generator):
    """The group of each column."""
    plain = torch.arange(columns) // size
    if kind == "by activation":
        return plain[torch.randperm(columns, generator=generator)]
    if kind == "whole groups moved":  # GPTQModel's act_group_aware
        return plain.flip(0)
    return plain


def case(bits, group_size, symmetric, kind, stored, *, columns=64, rows=32):
    """A module packed by GPTQModel."""
    generator = torch.Generator().manual_seed(bits + group_size + symmetric)
    size = group_size if group_size > 0 else columns
    count = -(-columns // size)
    index = groups(kind, columns, size, generator)
    codes = torch.randint(0, 2**bits, (rows, columns), generator=generator)
    scales = (torch.rand(rows, count, generator=generator) * 0.01 + 1e-3).half().float()
    zeros = torch.randint(0, 2**bits, (rows, count), generator=generator)
    if symmetric:
        zeros = torch.full_like(zeros, 2 ** (bits - 1))
    linear = torch.nn.Linear(columns, rows, bias=False)
    linear.weight.data = (codes - zeros[:, index]) * scales[:, index]
    config = {"bits": bits, "group_size": group_size, "sym": symmetric, "desc_act": kind == "by activation"}
    packed = TorchLinear(**config, in_features=columns, out_features=rows)
    packed.pack_original(linear, scales, zeros.int(), index.int())
    if stored == "gptq":
        packed.qzero_format(format=2)
        convert_gptq_v2_to_v1_format_module(packed, SimpleNamespace(bits=bits, pack_dtype=torch.int32))
    tensors = {part: described(getattr(packed, part)) for part in ("g_idx", "qweight", "qzeros", "scales")}
    if stored == "gptq":
        convert_gptq_v1_to_v2_format_module(packed, bits, torch.int32)
    packed.scales = packed.scales.float()
    packed._init_wf_unsqueeze_buffers()  # as its post_init, without compiling
    packed.eval()
    values = TorchLinear.dequantize_weight(packed).T.contiguous()
    return {
        "quantization_config": {"quant_method": "gptq", **config, "checkpoint_format": stored},
        "tensors": tensors,
        "shape": [rows, columns],
        "sha256": hashlib.sha256(values.numpy().tobytes()).hexdigest(),
    }


def build():
    """What goes into theirs.json."""
    kinds = ("plain", "by activation", "whole groups moved")
    cases = {
        f"{bits} bits, groups of {size}, {'symmetric' if symmetric else 'asymmetric'}, {kind}, {stored}": case(
            bits, size, symmetric, kind, stored
        )
        for bits, size, symmetric, kind, stored in product((4, 8), (32, -1), (True, False), kinds, ("gptq", "gptq_v2"))
        if size > 0 or kind == "plain"
    }
    cases["a partial group"] = case(4, 64, symmetric=True, kind="plain", stored="gptq", columns=96)
    return {"versions": {"gptqmodel": gptqmodel.__version__, "torch": torch.__version__}, "cases": cases}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(build(), indent=1) + "\n")
