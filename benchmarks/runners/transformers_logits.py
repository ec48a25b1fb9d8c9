"""Logits and losses that transformers computes in float32; runs in the peer `transformers`.

    transformers_logits.py PATH TOKENS.safetensors OUT.safetensors [--json]

TOKENS holds `tokens` [windows, window]. OUT holds `nll` [windows, window / 2], the loss of each token in the second
half of its window, in float64, and `logits`, those of the first window's second half. Only these logits are computed.
--json prints the tokens a second that were read and scored, the best of two passes.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from safetensors.torch import load_file, save_file


def scored(model: torch.nn.Module, window: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the second half of ``window``, and the losses of its tokens."""
    half = len(window) - len(window) // 2
    logits = model(window[None, :-1], logits_to_keep=half).logits[0]
    return logits, torch.nn.functional.cross_entropy(logits.double(), window[-half:], reduction="none")


def main() -> None:
    """Load, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("path", type=Path, metavar="PATH", help="folder of the checkpoint")
    parser.add_argument("tokens", type=Path, metavar="TOKENS", help="safetensors file to read")
    parser.add_argument("out", type=Path, metavar="OUT", help="safetensors file to write")
    parser.add_argument("--json", action="store_true", help="print one JSON line about the run")
    args = parser.parse_args()
    tokens = load_file(args.tokens)["tokens"]
    model = transformers.AutoModelForCausalLM.from_pretrained(args.path, dtype=torch.float32).eval()
    best = float("inf")
    with torch.inference_mode():
        logits, _ = scored(model, tokens[0])
        for _ in range(2):
            began = time.perf_counter()
            nll = torch.stack([scored(model, window)[1] for window in tokens])
            best = min(best, time.perf_counter() - began)
    save_file({"logits": logits.contiguous(), "nll": nll}, args.out)
    if args.json:
        versions = {module.__name__: module.__version__ for module in (transformers, torch)}
        read = len(tokens) * (tokens.shape[1] - 1)
        print(json.dumps({"tokens_per_s": read / best, "threads": torch.get_num_threads(), "versions": versions}))


if __name__ == "__main__":
    main()
