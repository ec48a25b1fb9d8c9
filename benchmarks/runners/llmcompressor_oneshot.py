"""Quantize a checkpoint with llm-compressor, calibrated on given tokens, on the CPU; runs in the peer `llm-compressor`.

    llmcompressor_oneshot.py SRC OUT SCHEME METHOD TOKENS

TOKENS is a JSON file: a list of windows, each a list of token numbers. lm_head, embeddings and norms keep their type.
Prints one JSON line: seconds of work (imports and loading left out).
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["LLM_COMPRESSOR_LOG_LEVEL"] = os.environ["COMPRESSED_TENSORS_LOG_LEVEL"] = "ERROR"  # they log to stdout

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, preset_name_to_scheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from transformers import AutoModelForCausalLM

SCHEMES = ("nvfp4a16", "mxfp4a16", "w4a16")
METHODS = ("rtn", "imatrix", "awq", "gptq")
INT4 = QuantizationArgs(num_bits=4, strategy="group", group_size=64)  # 576 inputs are no multiple of its preset's 128


def scheme_of(name: str, *, imatrix: bool) -> QuantizationScheme:
    """How it describes a scheme; ``imatrix`` searches scales by the error weighted with E[x^2]."""
    if name == "w4a16":
        scheme = QuantizationScheme(targets=["Linear"], weights=INT4)
    else:
        scheme = preset_name_to_scheme(name.upper(), ["Linear"])
    if imatrix:
        assert scheme.weights is not None
        scheme.weights.observer = "imatrix_mse"
    return scheme


def recipe_of(scheme: str, method: str) -> list[Modifier]:
    """Its modifiers for a scheme and a method."""
    groups = {"config_groups": {"all": scheme_of(scheme, imatrix=method == "imatrix")}, "ignore": ["lm_head"]}
    if method == "gptq":
        return [GPTQModifier(**groups)]
    return [*([AWQModifier()] if method == "awq" else []), QuantizationModifier(**groups)]


def main() -> None:
    """Quantize once and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("source", type=Path, metavar="SRC", help="folder of the checkpoint")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("scheme", choices=SCHEMES, metavar="SCHEME", help=", ".join(SCHEMES))
    parser.add_argument("method", choices=METHODS, metavar="METHOD", help=", ".join(METHODS))
    parser.add_argument("tokens", type=Path, metavar="TOKENS", help="JSON file of windows of token numbers")
    args = parser.parse_args()
    windows = json.loads(args.tokens.read_text())
    model = AutoModelForCausalLM.from_pretrained(args.source, dtype=torch.float32)
    data = Dataset.from_dict({"input_ids": windows, "attention_mask": [[1] * len(window) for window in windows]})
    began = time.perf_counter()
    oneshot(
        model=model,
        dataset=data,
        recipe=recipe_of(args.scheme, args.method),
        num_calibration_samples=len(windows),
        max_seq_length=max(map(len, windows)),
        shuffle_calibration_samples=False,
    )
    seconds = time.perf_counter() - began
    model.save_pretrained(args.out, save_compressed=True)
    print(json.dumps({"scheme": args.scheme, "method": args.method, "seconds": seconds}))


if __name__ == "__main__":
    main()
