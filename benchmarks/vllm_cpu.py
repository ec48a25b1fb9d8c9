"""vLLM on a CPU generates from what halve writes: greedily, the tokens that halve's reference runtime finds likeliest.

    python benchmarks/peers.py vllm --prepare    # once; 3.5 GB
    python benchmarks/vllm_cpu.py [--quick] [--json]

``vllm_generates``: vLLM continues six prompts with SmolLM2, and ours reads along: after each prompt and each of vLLM's
tokens, vLLM's next token must be our likeliest, or a tie with it: less than the bound of served.py below it. vLLM
computes in BF16; it multiplies INT8 and FP8 codes themselves, and decodes those of w4a16 to BF16. Ours rounds inputs to
codes and back where the scheme quantizes activations (a scale a token, amax / 127 for INT8 as in vLLM), and multiplies
in float32.

``vllm_loads``: vLLM has no kernel to run FP4 on a CPU, and says so. Its config parser takes nvfp4, nvfp4a16, mxfp4 and
mxfp4a16, and its model classes take every tensor of them, each name, shape and dtype, and have all their parameters
filled. ``--quick`` takes one scheme of each.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HALVE_REQUIRE_NATIVE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")  # for vLLM: its threads spin where others want the cores

import numpy as np

import halve
import peers
from halve.pipeline import smollm2
from halve.pipeline.calibrate import calibrate
from measure import Figure
from served import above, bound, quantize_inputs

PEER = "vllm"
GENERATED = ("w4a16", "w8a8", "fp8_dynamic")
LOADED = {
    "nvfp4a16": "CompressedTensorsW4A4Fp4",
    "nvfp4": "CompressedTensorsW4A4Fp4",
    "mxfp4": "CompressedTensorsW4A4Mxfp4",
    "mxfp4a16": "CompressedTensorsW4A4Mxfp4",
}
CALIBRATED = "nvfp4"  # whose tensor scale of activations is static
PROMPTS = (
    "The days of the week are Monday, Tuesday, Wednesday,",
    "1, 2, 3, 4, 5, 6,",
    "The capital of France is",
    "def add(a, b):\n    return a +",
    "Once upon a time, there was a little girl who",
    "import numpy as",
)
TOKENS = 8


def generated(path: Path, prompts: list[list[int]]) -> list[list[int]]:
    """The tokens with which vLLM continues each prompt."""
    with tempfile.TemporaryDirectory() as name:
        given, taken = Path(name) / "prompts.json", Path(name) / "generated.json"
        given.write_text(json.dumps(prompts))
        peers.run(PEER, "vllm_generate.py", path, given, taken, "--tokens", str(TOKENS))
        found: list[list[int]] = json.loads(taken.read_text())
        return found


def generates(path: Path, prompts: list[list[int]]) -> Figure:
    """Read along what vLLM generates."""
    model = halve.load(path)
    quantize_inputs(model)
    continued = generated(path, prompts)
    windows = [np.array(prompt + tokens[:-1]) for prompt, tokens in zip(prompts, continued, strict=True)]
    top = np.concatenate(
        [
            above(model.logits(window)[-TOKENS:], np.array(tokens))
            for window, tokens in zip(windows, continued, strict=True)
        ]
    )
    tie = bound(model, windows)
    return Figure(
        metric=f"vllm_generates_{path.name}",
        value=int((top == 0).sum()),
        unit="tokens",
        peer=PEER,
        peer_value=top.size,
        goal=f"our likeliest tokens, or less than {tie:.3g} below them (worst {top.max():.2g})",
        met=bool(top.max() < tie),
    )


def loads(paths: list[Path]) -> Iterator[Figure]:
    """Let vLLM take checkpoints that it cannot run here."""
    with tempfile.NamedTemporaryFile("r") as taken:
        peers.run(PEER, "vllm_load.py", taken.name, *paths)
        found = json.load(taken)
    for path, one in zip(paths, found, strict=True):
        yield Figure(
            metric=f"vllm_loads_{path.name}",
            value=one["parameters"],
            unit="parameters",
            goal=f"all filled, as {LOADED[path.name]}; no CPU kernel runs them",
            met=one["schemes"] == [LOADED[path.name]],
        )


def quantized(reference: Path, scheme: str) -> Path:
    """The checkpoint ``reference`` in a scheme, beside it."""
    out, statistics = reference.with_name(scheme), reference.with_name("statistics")
    if scheme == CALIBRATED:
        calibrate(reference, statistics, windows=1, hessians=False)
        halve.quantize(reference, out, scheme, stats=statistics, algorithm="rtn")
    else:
        halve.quantize(reference, out, scheme)
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="one scheme of each")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    if peers.python(PEER) is None:
        goal = f"our greedy tokens in {', '.join(GENERATED)}"
        missing = Figure(metric="vllm_generates", value=None, unit="tokens", goal=goal, met=False, peer=PEER)
        missing.print(as_json=args.json)
        return
    count = 1 if args.quick else None
    with tempfile.TemporaryDirectory() as name:
        reference = Path(name) / "bf16"
        halve.quantize(smollm2.fetch(), reference, "bf16")
        tokenizer = halve.load(reference).tokenizer
        prompts = [tokenizer.encode(prompt).tolist() for prompt in PROMPTS]
        for scheme in GENERATED[:count]:
            generates(quantized(reference, scheme), prompts).print(as_json=args.json)
        for figure in loads([quantized(reference, scheme) for scheme in list(LOADED)[:count]]):
            figure.print(as_json=args.json)


if __name__ == "__main__":
    main()
