"""transformers with compressed-tensors loads what halve writes, and sees the weights that halve means.

    python benchmarks/peers.py transformers --prepare    # once
    python benchmarks/transformers_loads.py [--quick] [--json]

It loads SmolLM2 in five schemes and runs it; every linear weight that it then holds in BF16 is compared, bit for bit,
with what halve dequantizes. ``--quick`` takes one scheme.
"""

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("HALVE_REQUIRE_NATIVE", "1")

import ml_dtypes
import numpy as np

import halve
import peers
from halve import layouts
from halve.checkpoint.base import read_array
from halve.checkpoint.hf import HfCheckpoint
from halve.pipeline import smollm2
from halve.schemes.quantize import dequantize
from measure import Figure

PEER = "transformers"
SCHEMES = ("nvfp4a16", "mxfp4a16", "fp8_dynamic", "w8a8", "w4a16")


def differing_weights(checkpoint: HfCheckpoint, dense: HfCheckpoint) -> list[str]:
    """Names of quantized weights that ``dense`` holds with other bits, or not at all."""
    layout = layouts.detect(checkpoint)
    wrong = []
    for name, stored in layout.open(checkpoint).items():
        ours = dequantize(layout.read(checkpoint, stored, 0, stored.shape[0])).astype(ml_dtypes.bfloat16)
        if name not in dense.tensors or not np.array_equal(
            ours.view(np.uint16), read_array(dense, name).view(np.uint16)
        ):
            wrong.append(name)
    return wrong


def loads(reference: Path, scheme: str) -> list[str]:
    """Quantize, let the peer load and run it; weights that differ, and ``logits`` where those are not finite."""
    with tempfile.TemporaryDirectory() as name:
        out, seen = Path(name) / "out", Path(name) / "seen"
        halve.quantize(reference, out, scheme)
        seen.mkdir()
        peers.run(PEER, "transformers_dequantize.py", out, seen / "model.safetensors")
        (seen / "config.json").write_text("{}")
        checkpoint, dense = HfCheckpoint(out), HfCheckpoint(seen)
        wrong = differing_weights(checkpoint, dense)
        return wrong if np.isfinite(read_array(dense, "logits")).all() else [*wrong, "logits"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="one scheme only")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    schemes = SCHEMES[:1] if args.quick else SCHEMES
    wrong = {scheme: ["not run"] for scheme in schemes}
    if peers.python(PEER) is not None:
        with tempfile.TemporaryDirectory() as name:
            reference = Path(name) / "bf16"
            halve.quantize(smollm2.fetch(), reference, "bf16")
            wrong = {scheme: loads(reference, scheme) for scheme in schemes}
    equal = [scheme for scheme, names in wrong.items() if not names]
    Figure(
        metric="transformers_loads",
        value=len(equal),
        unit="schemes",
        peer=PEER,
        peer_value=len(schemes),
        ratio=len(equal) / len(schemes),
        goal=f"all of {', '.join(schemes)}, bit for bit",
        met=len(equal) == len(schemes),
    ).print(as_json=args.json)
    for scheme, names in wrong.items():
        if names and not args.json:
            print(f"  {scheme}: {len(names)} differ, first {names[0]}")


if __name__ == "__main__":
    main()
