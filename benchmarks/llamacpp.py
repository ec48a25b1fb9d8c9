"""llama.cpp loads the GGUF files that halve writes, and finds the perplexity that halve finds.

    python benchmarks/peers.py xllamacpp --prepare    # once
    python benchmarks/llamacpp.py [--quick] [--json]

SmolLM2 is written in every type, and both read the same windows of the same ids: ``llamacpp_ppl_TYPE`` is how far apart
they are. llama.cpp rounds the inputs of quantized layers to 8 bits and keeps keys and values in FP16, halve computes in
float32. ``llamacpp_ids`` counts the ids that differ where both tokenize the same text. ``--quick`` takes two types.
"""

import argparse
import json
import os
import tempfile
from itertools import zip_longest
from math import exp
from pathlib import Path
from statistics import fmean

os.environ.setdefault("HALVE_REQUIRE_NATIVE", "1")

import halve
import peers
from halve.evaluate import passages, text
from halve.evaluate.evaluator import WINDOW, Evaluator
from halve.pipeline import smollm2
from halve.runtime.load import load
from measure import Figure

PEER = "xllamacpp"
TYPES = {
    "Q4_0": "int4_g32",
    "Q4_1": "int4_min_g32",
    "Q8_0": "int8_g32",
    "MXFP4": "mxfp4a16",
    "NVFP4": "nvfp4a16",
    "F16": "fp16",
    "BF16": "bf16",
    "F32": "fp32",
}
QUICK = ("Q4_1", "NVFP4")
APART = 0.01
CHARACTERS = 60_000  # of the text that both tokenize


def perplexity(gguf: Path, windows: list[list[int]], folder: Path) -> float:
    """What llama.cpp finds on ``windows`` of ids, the second half of each scored."""
    asked, answer = folder / "windows.json", folder / "losses.json"
    asked.write_text(json.dumps(windows))
    peers.run(PEER, "llamacpp_losses.py", gguf, asked, answer)
    return exp(fmean(loss for losses in json.loads(answer.read_text()) for loss in losses))


def one_type(reference: Path, name: str, windows: int, folder: Path) -> Figure:
    """Write SmolLM2 in a type, and let both run it."""
    out = folder / name
    halve.quantize(reference, out, TYPES[name], layout="gguf")
    cut = passages.cut(text.default(), load(out).tokenizer, windows=windows, window=WINDOW)
    with Evaluator(windows=windows) as evaluator:
        ours = evaluator.evaluate(out).weights.ppl.mean
    theirs = None
    if peers.python(PEER) is not None:
        theirs = perplexity(out / "model.gguf", [passage.tokens.tolist() for passage in cut], folder)
    apart = None if theirs is None else abs(theirs - ours) / ours
    return Figure(
        metric=f"llamacpp_ppl_{name.lower()}",
        value=apart,
        unit="",
        goal=f"< {APART}; ours {ours:.4f}",
        met=apart is not None and apart < APART,
        peer="llama.cpp",
        peer_value=theirs,
    )


def differing_ids(reference: Path, folder: Path) -> Figure:
    """Tokenize a text with both."""
    differ = count = None
    halve.quantize(reference, folder / "out", TYPES["Q4_0"], layout="gguf")
    gguf = folder / "out" / "model.gguf"
    if peers.python(PEER) is not None:
        content = text.default().content[:CHARACTERS]
        (folder / "text.txt").write_bytes(content.encode())
        peers.run(PEER, "llamacpp_tokenize.py", gguf, folder / "text.txt", folder / "ids.json")
        theirs = json.loads((folder / "ids.json").read_text())
        ours = load(gguf).tokenizer.encode(content, special=False).tolist()
        differ, count = sum(a != b for a, b in zip_longest(ours, theirs)), len(theirs)
    return Figure(
        metric="llamacpp_ids",
        value=differ,
        unit="ids",
        goal="0 differ",
        met=differ == 0,
        peer="llama.cpp",
        peer_value=count,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="two types, fewer windows")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        reference = Path(name) / "dense"
        halve.quantize(smollm2.fetch(), reference, "bf16", layout="dense")
        for kind in QUICK if args.quick else TYPES:
            with tempfile.TemporaryDirectory() as folder:
                one_type(reference, kind, 2 if args.quick else 4, Path(folder)).print(as_json=args.json)
        with tempfile.TemporaryDirectory() as folder:
            differing_ids(reference, Path(folder)).print(as_json=args.json)


if __name__ == "__main__":
    main()
