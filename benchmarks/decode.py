"""Decoding beside itself: fewer bytes, older instructions, a neighbour that computes, the first token of a cold start.

    python benchmarks/decode.py [--only bytes,avx2,busy,together,first_token] [--pairs 10] [--folder DIR] [--json]

Models are Llamas of made-up weights, 1.1B parameters, or 7B for the first token; the output head is quantized like the
other linear layers. What is compared takes turns, and a figure is the median of the ratios. Activations are bf16, and
int8 where instruction sets and neighbours are compared.

- `bytes`: tokens a second of FP4, FP8 and BF16 to those of FP32, over the inverse ratio of the bytes a token reads.
- `avx2`: the AVX2 kernels to the best ones.
- `busy`: two cores, on one of which another process computes, to the same two cores without it.
- `together`: tokens a second of 16 sequences of SmolLM2 in NVFP4 to those of one.
- `first_token`: seconds from opening a 7B file in NVFP4 to its first token, a page cache holding it; and how much more
  than its packed weights the process took.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

os.environ.setdefault("HALVE_REQUIRE_NATIVE", "1")

import numpy as np

import halve
import measure
import synthetic
from halve.pipeline import smollm2
from halve.runtime.packed import kernels
from halve.runtime.packed.load import load
from halve.runtime.packed.model import PackedModel
from vs_llamacpp import ours

SCHEMES = {"fp4": "nvfp4a16", "fp8": "fp8", "bf16": "bf16"}
TOKENS = 32
SEQUENCES = 16
THREADS = 2
FIRST_TOKEN = (
    "import resource, sys, time; began = time.perf_counter(); import numpy;"
    "from halve.runtime.packed.load import load; model = load(sys.argv[1], mode='int8');"
    "model.logits(numpy.array([1])); took = time.perf_counter() - began;"
    "print(took, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, model.packed_bytes)"
)


def quantized(dense: Path, scheme: str) -> Path:
    """The model under ``scheme``, its head as well; made once."""
    path = dense.with_name(f"{dense.name}-{scheme}")
    if not path.exists():
        heads = [] if scheme in ("bf16", "fp32") else [("lm_head", scheme)]
        halve.quantize(dense, path, scheme, overrides=heads)
    return path


def in_turns(one: PackedModel, other: PackedModel, pairs: int) -> tuple[float, float, float]:
    """Tokens a second of both, and the median ratio of the first's to the second's."""
    timed = [(ours(one, "tg", TOKENS), ours(other, "tg", TOKENS)) for _ in range(pairs + 1)][1:]
    first, second = (TOKENS / statistics.median(side) for side in zip(*timed, strict=True))
    return first, second, statistics.median(b / a for a, b in timed)


def figure(
    metric: str, value: float, ratio: float, goal: str, *, met: bool, peer: str, beside: float
) -> measure.Figure:
    """Tokens a second beside others."""
    return measure.Figure(
        metric=metric, value=value, unit="t/s", peer=peer, peer_value=beside, ratio=ratio, goal=goal, met=met
    )


def of_bytes(dense: Path, pairs: int) -> list[measure.Figure]:
    """Fewer bytes, more tokens."""
    base = load(quantized(dense, "fp32"), threads=THREADS)
    found = []
    for name, scheme in SCHEMES.items():
        model = load(quantized(dense, scheme), threads=THREADS)
        mine, theirs, ratio = in_turns(model, base, pairs)
        share = ratio * model.nbytes / base.nbytes
        found.append(
            figure(
                f"bytes_{name}_of_inverse",
                mine,
                share,
                "0.8 to 1.2",
                met=0.8 <= share <= 1.2,
                peer="fp32",
                beside=theirs,
            )
        )
    return found


def of_avx2(dense: Path, pairs: int) -> list[measure.Figure]:
    """Older instructions."""
    path, best = quantized(dense, "nvfp4a16"), kernels.kernels
    newest = load(path, mode="int8", threads=THREADS)
    kernels.kernels = lambda: kernels.native.packed_kernels("avx2")
    try:
        older = load(path, mode="int8", threads=THREADS)
    finally:
        kernels.kernels = best
    mine, theirs, ratio = in_turns(older, newest, pairs)
    peer = kernels.kernels().isa
    return [figure("avx2_nvfp4", mine, ratio, ">= 0.75", met=ratio >= 0.75, peer=peer, beside=theirs)]


def of_neighbour(dense: Path, pairs: int) -> list[measure.Figure]:
    """One core of two is taken."""
    whole = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(whole)[:2])
    try:
        model = load(quantized(dense, "nvfp4a16"), mode="int8", threads=2)
        ours(model, "tg", TOKENS)
        timed = []
        for _ in range(pairs):
            alone = ours(model, "tg", TOKENS)
            neighbour = subprocess.Popen([sys.executable, "-I", "-c", "while True: pass"])
            os.sched_setaffinity(neighbour.pid, sorted(whole)[1:2])
            try:
                timed.append((ours(model, "tg", TOKENS), alone))
            finally:
                neighbour.kill()
                neighbour.wait()
    finally:
        os.sched_setaffinity(0, whole)
    beside, alone = (TOKENS / statistics.median(side) for side in zip(*timed, strict=True))
    ratio = statistics.median(b / a for a, b in timed)
    return [figure("busy_neighbour", beside, ratio, ">= 0.4", met=ratio >= 0.4, peer="alone", beside=alone)]


def of_sequences(folder: Path, pairs: int) -> list[measure.Figure]:
    """The weights are read once for all."""
    path = folder / "smollm2"
    halve.quantize(smollm2.fetch(), path, "nvfp4a16")
    found = []
    for mode in ("int8", "bf16"):
        model = load(path, mode=mode, threads=THREADS)
        timed = [(_side_by_side(model, SEQUENCES), _side_by_side(model, 1)) for _ in range(pairs + 1)][1:]
        many, one = (statistics.median(side) for side in zip(*timed, strict=True))
        ratio = statistics.median(a / b for a, b in timed)
        metric = f"together_{SEQUENCES}_{mode}"
        found.append(figure(metric, many, ratio, ">= 3", met=ratio >= 3, peer="one sequence", beside=one))
    return found


def _side_by_side(model: PackedModel, count: int) -> float:
    """Tokens a second of so many sequences, each behind a prompt of as many tokens as are written."""
    caches = [model.new_cache() for _ in range(count)]
    for cache in caches:
        model.logits(np.arange(TOKENS), cache, start=TOKENS - 1)
        cache.reserve(TOKENS)
    began = perf_counter()
    for token in range(TOKENS):
        model.next_logits([token] * count, caches)
    return count * TOKENS / (perf_counter() - began)


def of_first_token(folder: Path) -> list[measure.Figure]:
    """From a file to a token."""
    dense = folder / "7b"
    synthetic.write(dense, "7b")
    path = quantized(dense, "nvfp4a16")
    runs = []
    for _ in range(3):
        answer = subprocess.run(
            [sys.executable, "-c", FIRST_TOKEN, path], capture_output=True, text=True, check=True
        ).stdout.split()
        runs.append([float(part) for part in answer])
    seconds, peak, packed = (statistics.median(side) for side in zip(*runs, strict=True))
    more = (peak - packed) / 2**20
    return [
        measure.Figure(metric="first_token_7b", value=seconds, unit="s", goal="<= 10 s", met=seconds <= 10),
        measure.Figure(metric="first_token_7b_more", value=more, unit="MiB", goal="<= 512 MiB", met=more <= 512),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", default="bytes,avx2,busy,together,first_token")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="where to put checkpoints (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        dense = Path(temporary) / "1b"
        synthetic.write(dense, "1b")
        for name in args.only.split(","):
            match name:
                case "bytes":
                    found = of_bytes(dense, args.pairs)
                case "avx2":
                    found = of_avx2(dense, args.pairs)
                case "busy":
                    found = of_neighbour(dense, args.pairs)
                case "together":
                    found = of_sequences(Path(temporary), args.pairs)
                case "first_token":
                    found = of_first_token(Path(temporary))
                case _:
                    parser.error(f"--only {name}: there are bytes, avx2, busy, together and first_token")
            for one in found:
                one.print(as_json=args.json)


if __name__ == "__main__":
    main()
