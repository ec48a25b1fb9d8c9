"""transformers with compressed-tensors runs what halve writes: the same layers, the same logits, the same tokens.

    python benchmarks/peers.py transformers --prepare    # once
    python benchmarks/transformers_generate.py [--quick] [--json]

Both read the same tokens of SmolLM2, all that stands before a token given. For each scheme:

- ``transformers_logits``, in float32, inputs of layers left as they come: what the weights alone make of the model
- ``transformers_layers``, in float32, inputs rounded: every linear layer of ours, fed what transformers fed to its own
- ``transformers_generate``: transformers as users run it, in BF16, ours in float32; the root mean square of the
  difference of logits, within the bound of served.py

The likeliest token must be the same wherever ours is further than the bound above the second.

Neither side multiplies codes. transformers decompresses the weights to BF16 once, and ours are rounded to BF16 for it.
Where the scheme quantizes activations (fp8_dynamic, w8a8), both round the inputs of a layer to codes with one scale a
token and back, by the arithmetic of compressed-tensors (an INT8 scale is amax / 127.5; vLLM's, and halve's by default,
is amax / 127), and multiply the values that they stand for. ``--quick`` takes one scheme.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HALVE_REQUIRE_NATIVE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")  # for transformers: its threads spin where others want the cores

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

import halve
import peers
from halve.evaluate import passages, text
from halve.pipeline import smollm2
from halve.runtime.linear import Array
from halve.runtime.model import Model
from halve.schemes import conform
from measure import Figure
from served import Tokens, above, bound, distance, logits, quantize_inputs
from transformers_loads import PEER, SCHEMES

WINDOWS, WINDOW = 2, 64
LAYERS = 1e-5  # of the largest output of a layer
WEIGHTS = 1e-3  # logits, whose standard deviation is 6


def windows_of(path: Path) -> Tokens:
    """Tokens of the default text, [windows, window]."""
    cut = passages.cut(text.default(), halve.load(path).tokenizer, windows=WINDOWS, window=WINDOW)
    return np.stack([passage.tokens for passage in cut])


def transformers(path: Path, windows: Tokens) -> dict[str, Array]:
    """What the peer computes, by the names of its runner."""
    with tempfile.TemporaryDirectory() as name:
        given, taken = Path(name) / "tokens.safetensors", Path(name) / "seen.safetensors"
        save_file({"tokens": windows}, given)
        peers.run(PEER, "transformers_generate.py", path, given, taken)
        return load_file(taken)


def worst_layer(model: Model, seen: dict[str, Array]) -> float:
    """The largest difference of a linear layer's outputs from those of ``seen`` for the same inputs, relative."""
    return max(
        float(np.abs(linear(seen[f"{name}.inputs"]) - theirs).max() / np.abs(theirs).max())
        for name, linear in model.linears.items()
        for theirs in [seen[f"{name}.outputs"]]
    )


def compare(path: Path, windows: Tokens) -> Iterator[Figure]:
    """Let both run a scheme."""
    seen, model = transformers(path, windows), halve.load(path)
    for parameter in model.parameters.values():
        parameter[:] = parameter.astype(ml_dtypes.bfloat16)
    ours, theirs = logits(model, windows), seen["fp32"]
    apart = float(np.abs(ours - theirs).max())
    yield figure(f"transformers_logits_{path.name}", apart, WEIGHTS, above(ours, theirs.argmax(-1)))
    quantize_inputs(model, conform.get("compressed-tensors").quantize)
    layers = worst_layer(model, seen)
    yield Figure(
        metric=f"transformers_layers_{path.name}",
        value=layers,
        unit="",
        goal=f"< {LAYERS:g} of the largest output, in each of {len(model.linears)} layers",
        met=layers < LAYERS,
    )
    ours, theirs = logits(model, windows), seen["bf16"]
    apart, within = distance(ours, theirs), bound(model, windows)
    yield figure(f"transformers_generate_{path.name}", apart, within, above(ours, theirs.argmax(-1)))


def figure(metric: str, apart: float, within: float, top: Array) -> Figure:
    """Logits ``apart`` within a bound; our likeliest tokens, ``top`` above theirs, too."""
    return Figure(
        metric=metric,
        value=apart,
        unit="logits",
        goal=f"< {within:.3g}, and so is a likeliest token that differs ({(top > 0).sum()} of {top.size}, "
        f"worst {top.max():.2g})",
        met=apart < within and bool(top.max() < within),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="one scheme only")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    if peers.python(PEER) is None:
        goal = f"logits of {', '.join(SCHEMES)} within the bounds above"
        missing = Figure(metric="transformers_generate", value=None, unit="logits", goal=goal, met=False, peer=PEER)
        missing.print(as_json=args.json)
        return
    with tempfile.TemporaryDirectory() as name:
        reference = Path(name) / "bf16"
        halve.quantize(smollm2.fetch(), reference, "bf16")
        windows = windows_of(reference)
        for scheme in SCHEMES[:1] if args.quick else ("bf16", *SCHEMES):
            with tempfile.TemporaryDirectory() as folder:
                halve.quantize(reference, Path(folder) / scheme, scheme)
                for found in compare(Path(folder) / scheme, windows):
                    found.print(as_json=args.json)


if __name__ == "__main__":
    main()
