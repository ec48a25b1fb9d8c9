"""Other people's calibrated quantizers beside halve's: the same model, the same calibration tokens, the same passages.

    python benchmarks/peers.py llm-compressor --prepare    # once, several GB
    python benchmarks/accuracy_peers.py [--quick] [--json] [--only nvfp4a16] [--work FOLDER]

Every checkpoint is in the layout compressed-tensors and is judged by KL divergence as `benchmarks/accuracy.py` does it;
the ratio is halve's mean over the peer's. What was evaluated before (by its bytes) is not evaluated again.
"""

import argparse
import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np

import accuracy
import peers
import texts
from halve.checkpoint.hf import HfCheckpoint
from halve.evaluate import builtin, passages
from halve.evaluate.evaluator import Evaluator
from halve.pipeline.calibrate import WINDOW, WINDOWS
from halve.runtime.text import Tokenizer
from measure import Figure

PEER = "llm-compressor"
SCHEMES = ("nvfp4a16", "w4a16")
METHODS: dict[str, tuple[str, tuple[str, ...]]] = {  # of the peer -> algorithm and transforms of halve that ask as much
    "rtn": ("rtn", ()),
    "imatrix": ("hessian_diag", ()),
    "awq": ("hessian_diag", ("awq",)),
    "gptq": ("gptq", ()),
}


def tokens(source: Path, file: Path) -> Path:
    """Write the windows that `halve calibrate` reads to ``file``, as JSON."""
    tokenizer = Tokenizer(source, HfCheckpoint(source).auxiliary())
    windows = [
        passage.tokens.tolist()
        for text in builtin.builtin("calibrate")
        for passage in passages.cut(text, tokenizer, windows=WINDOWS, window=WINDOW)
    ]
    file.write_text(json.dumps(windows))
    return file


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="4 passages of each kind instead of 20")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--only", action="append", choices=SCHEMES, help="one scheme")
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks/accuracy"), help="scratch folder")
    args = parser.parse_args()
    count = 4 if args.quick else 20
    args.work.mkdir(parents=True, exist_ok=True)
    source, stats = accuracy.prepared(args.work)
    windows = tokens(source, args.work / "tokens.json")
    with Evaluator(source, texts=[kind.text for kind in texts.KINDS], windows=count) as evaluator:
        for scheme, method in product(args.only or SCHEMES, METHODS):
            row = accuracy.Row(scheme, *METHODS[method])
            ours = accuracy.measure(row, source, stats, evaluator, passages=count, work=args.work)
            out = args.work / f"{PEER}-{scheme}-{method}"
            shutil.rmtree(out, ignore_errors=True)  # of an interrupted run
            peers.run(PEER, "llmcompressor_oneshot.py", source, out, scheme, method, windows)
            shutil.copy(source / "tokenizer.json", out)
            theirs = accuracy.evaluated(out, evaluator, activations=False, passages=count, work=args.work)
            mean = float(np.concatenate([np.array(values) for values in theirs.values()]).mean())
            Figure(
                metric=f"{row.name}_kld",
                value=ours.mean,
                unit="nats/token",
                peer=f"{PEER} {method}",
                peer_value=mean,
                ratio=ours.mean / mean,
                goal="below the peer's",
                met=ours.mean < mean,
            ).print(as_json=args.json)


if __name__ == "__main__":
    main()
