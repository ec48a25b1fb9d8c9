"""Tokens per second beside llama.cpp, on the same weights in the same run.

    python benchmarks/peers.py llama-cpp-python --prepare    # once: CMAKE_ARGS=-DGGML_NATIVE=ON
    python benchmarks/vs_llamacpp.py [--shape 1b|7b|smollm2] [--only nvfp4,q4_0] [-t 1,2] [--pairs 30] [--json]

Both read a checkpoint that halve wrote, in its own layout and as GGUF, with the same linear layers quantized, the
output head included. Ours and theirs take turns; a figure is the median of the ratios of pairs, with the quartiles. The
rate at which memory can be read is measured before and after each row, and the row is repeated where it moved by more
than a tenth. Activations are int8, which is what llama.cpp does with them, and bf16 for BF16.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

os.environ.setdefault("HALVE_REQUIRE_NATIVE", "1")

import numpy as np

import halve
import measure
import peers
import synthetic
from halve.evaluate.bench import read_rate
from halve.pipeline import smollm2
from halve.runtime.packed import kernels
from halve.runtime.packed.load import load
from halve.runtime.packed.model import PackedModel

PEER = "llama-cpp-python"
MOVED = 0.1
REPEATS = 3


@dataclass(frozen=True)
class Row:
    """Our scheme beside one of their types, and the ratios wanted at 1 and at 2 threads."""

    scheme: str
    theirs: str
    goals: tuple[float, float]
    prompt_goal: float = 0.0
    mode: kernels.Mode = "int8"


ROWS = {
    "nvfp4": Row("nvfp4a16", "nvfp4a16", (1.9, 1.6), prompt_goal=5.0),
    "nvfp4_q4_0": Row("nvfp4a16", "int4_g32", (1.15, 1.15), prompt_goal=1.0),
    "mxfp4": Row("mxfp4a16", "mxfp4a16", (1.25, 1.25), prompt_goal=1.0),
    "int8_q8_0": Row("w8a16", "int8_g32", (1.05, 1.05), prompt_goal=1.0),
    "bf16": Row("bf16", "bf16", (0.95, 0.95), mode="bf16"),
}
SMOLLM2 = {
    "nvfp4_q4_0": Row("nvfp4a16", "int4_g32", (1.0, 1.0)),
    "int8_q8_0": Row("w8a16", "int8_g32", (1.0, 1.0)),
}


class Theirs:
    """llama.cpp with a GGUF file, in a process of its own."""

    def __init__(self, gguf: Path) -> None:
        python = peers.python(PEER)
        if python is None:
            raise LookupError(f"{PEER} is {peers.state(PEER)}: run `python benchmarks/peers.py {PEER} --prepare`")
        command = [str(python), "-I", str(peers.RUNNERS / "llamacpp_speed.py"), str(gguf)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def seconds(self, test: str, tokens: int, threads: int) -> float:
        """How long a test takes."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{test} {tokens} {threads}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"llama.cpp ended with {self._process.wait()}")
        return line.strip()


def ours(model: PackedModel, test: str, count: int) -> float:
    """How long a test takes us."""
    tokens = np.random.default_rng(0).integers(0, model.vocabulary, count)
    cache = model.new_cache()
    cache.reserve(count)
    began = perf_counter()
    if test == "pp":
        model.logits(tokens, cache, start=count - 1)
    else:
        for index in range(count):
            model.logits(tokens[index : index + 1], cache)
    return perf_counter() - began


def compare(model: PackedModel, theirs: Theirs, test: str, tokens: int, *, threads: int, pairs: int) -> tuple:
    """Ours and theirs in tokens a second, the ratios of all pairs, and the read rate beside them."""
    model.use(kernels.pool(threads))
    for _ in range(REPEATS):
        before = read_rate(threads)
        ours(model, test, tokens), theirs.seconds(test, tokens, threads)
        timed = [(ours(model, test, tokens), theirs.seconds(test, tokens, threads)) for _ in range(pairs)]
        after = read_rate(threads)
        if abs(after - before) <= MOVED * before:
            break
    medians = [tokens / statistics.median(side) for side in zip(*timed, strict=True)]
    return *medians, [b / a for a, b in timed], (before + after) / 2


def source(shape: str, folder: Path) -> Path:
    """The model in BF16."""
    if shape == "smollm2":
        halve.quantize(smollm2.fetch(), folder / shape, "bf16")
        return folder / shape
    synthetic.write(folder / shape, shape)
    return folder / shape


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shape", choices=("1b", "7b", "smollm2"), default="1b")
    parser.add_argument("--only", help=f"of {', '.join(ROWS)}")
    parser.add_argument("-t", "--threads", default="1,2")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("-n", "--generate", type=int, default=32, help="tokens of a test")
    parser.add_argument(
        "-p", "--prompt", type=int, default=0, help="also prompts of so many tokens, a tenth of the pairs"
    )
    parser.add_argument("--folder", type=Path, help="where to put checkpoints (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    rows = SMOLLM2 if args.shape == "smollm2" else ROWS
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        dense = source(args.shape, folder)
        for name in (args.only or ",".join(rows)).split(","):
            measure_row(name, rows[name], dense, folder, args)


def measure_row(name: str, row: Row, dense: Path, folder: Path, args: argparse.Namespace) -> None:
    """Quantize for both, and compare."""
    for side, scheme, layout in (("ours", row.scheme, None), ("theirs", row.theirs, "gguf")):
        untied = args.shape != "smollm2" and scheme != "bf16"
        halve.quantize(dense, folder / side, scheme, layout=layout, overrides=[("lm_head", scheme)] * untied)
    gguf = next((folder / "theirs").glob("*.gguf"))
    model, theirs = load(folder / "ours", mode=row.mode), Theirs(gguf)
    tests = [("tg", args.generate, args.pairs)] + [("pp", args.prompt, max(args.pairs // 10, 3))] * bool(args.prompt)
    for test, tokens, pairs in tests:
        for threads in map(int, args.threads.split(",")):
            us, them, ratios, read = compare(model, theirs, test, tokens, threads=threads, pairs=pairs)
            low, middle, high = statistics.quantiles(ratios, n=4)
            goal = row.prompt_goal if test == "pp" else row.goals[min(threads, 2) - 1]
            measure.Figure(
                metric=f"{args.shape}_{name}_{test}{tokens}_{threads}t",
                value=us,
                unit="t/s",
                peer="llama.cpp",
                peer_value=them,
                ratio=middle,
                goal=f">= {goal:g}" if goal else "none",
                met=middle >= goal,
            ).print(as_json=args.json)
            if not args.json:
                used = f", {model.nbytes * us / read:.0%} of the {read / 1e9:.1f} GB/s that memory gives" * (
                    test == "tg"
                )
                print(
                    f"    ratios {low:.2f} to {high:.2f}; {model.nbytes / 1e6:.0f} MB a token, "
                    f"theirs {gguf.stat().st_size / 1e6:.0f} MB in the file{used}"
                )
    theirs.close()
    del model
    for side in ("ours", "theirs"):
        shutil.rmtree(folder / side)


if __name__ == "__main__":
    main()
