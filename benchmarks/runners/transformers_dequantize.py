"""Dump what transformers makes of a compressed-tensors checkpoint; runs in the peer `transformers`.

    transformers_dequantize.py PATH OUT.safetensors [--json]

OUT holds the dense weight of every torch Linear under its module's name (BF16), and `logits`: the float32 logits of
the tokens PROMPT, shape (tokens, vocabulary). Loaded as a user does: the weights stay compressed until the first
forward, which decompresses them.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import compressed_tensors
import torch
import transformers
from safetensors.torch import save_file

PROMPT = (1, 2, 3, 5, 8, 13, 21, 34, 55)


def main() -> None:
    """Load, run once, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("path", type=Path, metavar="PATH", help="folder of the checkpoint")
    parser.add_argument("out", type=Path, metavar="OUT", help="safetensors file to write")
    parser.add_argument("--json", action="store_true", help="print one JSON line about the run")
    args = parser.parse_args()
    began = time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(args.path, dtype=torch.bfloat16).eval()
    with torch.inference_mode():
        logits = model(torch.tensor([PROMPT])).logits[0]
    weights = {
        f"{name}.weight": module.weight.detach().to(torch.bfloat16).contiguous()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    save_file({**weights, "logits": logits.float().contiguous()}, args.out)
    if args.json:
        versions = {module.__name__: module.__version__ for module in (transformers, compressed_tensors, torch)}
        print(json.dumps({"linears": len(weights), "seconds": time.perf_counter() - began, "versions": versions}))


if __name__ == "__main__":
    main()
