"""Quantize a checkpoint with llm-compressor's model_free_ptq on the CPU; runs in the peer `llm-compressor`.

    llmcompressor_model_free.py SRC OUT SCHEME

lm_head, embeddings and norms keep their type. Prints one JSON line: seconds of work (imports left out) and bytes of
the safetensors files written.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["LLM_COMPRESSOR_LOG_LEVEL"] = os.environ["COMPRESSED_TENSORS_LOG_LEVEL"] = "ERROR"  # they log to stdout

from llmcompressor import model_free_ptq

SCHEMES = ("NVFP4A16", "MXFP4A16", "FP8_DYNAMIC", "W4A16")
IGNORE = ("lm_head", "re:.*embed_tokens$")  # a name, a regular expression; it leaves norms alone by itself


def main() -> None:
    """Quantize once and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("source", type=Path, metavar="SRC", help="folder of the checkpoint")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("scheme", choices=SCHEMES, metavar="SCHEME", help=", ".join(SCHEMES))
    args = parser.parse_args()
    began = time.perf_counter()
    model_free_ptq(str(args.source), str(args.out), scheme=args.scheme, ignore=IGNORE, device="cpu")
    seconds = time.perf_counter() - began
    size = sum(path.stat().st_size for path in args.out.glob("*.safetensors"))
    print(json.dumps({"scheme": args.scheme, "seconds": seconds, "bytes": size}))


if __name__ == "__main__":
    main()
