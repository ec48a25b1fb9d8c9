"""Which other quantizers choose the same codes and scales as halve, bit for bit, on 45 million weights.

python benchmarks/conformance.py [--quick] [--json]

Each tool quantized one drawn tensor (seeded, 4096 x 11008, N(0, 1) with 0.1 % twenty times as large) to nearest, and
conformance.json keeps the first 16 digits of the sha256 of its unpacked codes and of its scales. A tool may well agree
in all scales and differ in some codes: by the sign of zeros, by ties, or by the order of FP32 operations.

``--quick`` does the same: a smaller tensor would have other hashes.
"""

import argparse
import hashlib
import json
import os
from pathlib import Path

os.environ.setdefault("HALVE_REQUIRE_NATIVE", "1")

import numpy as np
from numpy.typing import NDArray

from halve import schemes
from halve.codecs import dispatch
from halve.schemes import Block
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import ScaleRule, quantize
from measure import Figure

PEERS = json.loads(Path(__file__).with_suffix(".json").read_text())
CASES: tuple[tuple[str, Block, ScaleRule], ...] = (
    ("nvfp4", schemes.get("nvfp4").weight, "max"),
    ("mxfp4", schemes.get("mxfp4").weight, "floor"),
    ("mxfp4", schemes.get("mxfp4").weight, "even"),
    ("mxfp4", schemes.get("mxfp4").weight, "rceil"),
    ("fp8", schemes.get("fp8").weight, "max"),
    ("int4", Block(element="int4", block_size=128), "max"),
    ("int4", Block(element="int4", block_size=128), "range"),
    ("int4", Block(element="int4", block_size=128, scale="fp16"), "signed"),
)
FEW_CODES = 10  # of 45,088,768: what the order of FP32 operations may change in NVFP4


def tensor() -> NDArray[np.float32]:
    """The tensor that every tool quantized."""
    rng = np.random.Generator(np.random.PCG64(20261122))
    x = rng.standard_normal((4096, 11008), dtype=np.float32)
    x[rng.random(x.shape, dtype=np.float32) < np.float32(1e-3)] *= np.float32(20)
    return x


def digest(array: NDArray[np.generic]) -> str:
    """The first 16 digits of sha256."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def hashes(q: QTensor) -> dict[str, str]:
    """Codes and scales as conformance.json counts them: INT4 plus 8; scales of 8 bits by their codes."""
    codes = q.codes ^ np.uint8(8) if q.block.element == "int4" else q.codes
    fmt = q.block.scale_format
    scales = dispatch.encode(fmt, q.scales) if fmt is not None and fmt.storage_bits == 8 else q.scales
    return {"codes": digest(codes), "scales": digest(scales)}


def by_reciprocal(q: QTensor, x: NDArray[np.float32]) -> QTensor:
    """NVFP4 with torchao's arithmetic: weights times the reciprocal of the step, where halve divides by the step."""
    reciprocal = np.float32(1) / (q.scales * np.float32(q.tensor_scale))
    codes = dispatch.encode(q.block.element_format, x * reciprocal.repeat(16, 1))
    return QTensor(q.block, codes, q.scales, q.tensor_scale)


def equal(peers: dict[str, dict[str, str]], ours: dict[str, str], part: str) -> list[str]:
    """Names of the peers whose ``part`` is ours."""
    return [name for name, theirs in peers.items() if theirs[part] == ours[part]]


def compare(name: str, block: Block, rule: ScaleRule, x: NDArray[np.float32], *, as_json: bool) -> None:
    """Quantize under one rule and print who agrees."""
    q = quantize(block, x, rule=rule)
    peers, ours = PEERS[name], hashes(q)
    codes, scales = equal(peers, ours, "codes"), equal(peers, ours, "scales")
    both = [peer for peer in codes if peer in scales]
    label = f"{name} {rule}" + (f" {block.scale} scales" if name == "int4" else "")
    met = bool(both)
    if not as_json:
        print(f"{label:24s} codes and scales: {', '.join(both) or '-'}")
        print(f"{'':24s} scales alone: {', '.join(peer for peer in scales if peer not in both) or '-'}")
    if name == "nvfp4":
        theirs = by_reciprocal(q, x)
        differ = int((theirs.codes != q.codes).sum())
        both = [peer for peer in equal(peers, hashes(theirs), "codes") if peer in scales]
        met = differ <= FEW_CODES and bool(both)
        if not as_json:
            print(f"{'':24s} {differ} of {x.size} codes from: {', '.join(both) or '-'}")
    if as_json:
        Figure(
            metric=f"conformance_{label.replace(' ', '_')}",
            value=float(len(both)),
            unit="tools",
            peer=", ".join(both),
            goal=">= 1 equal" if name != "nvfp4" else f">= 1 with at most {FEW_CODES} codes apart",
            met=met,
        ).print(as_json=True)


def main() -> None:
    """Quantize, hash, compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="no difference: the hashes are of the whole tensor")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    x = tensor()
    if digest(x) != PEERS["input"]:
        parser.exit(1, "this numpy draws other numbers: the hashes do not apply\n")
    for name, block, rule in CASES:
        compare(name, block, rule, x, as_json=args.json)


if __name__ == "__main__":
    main()
