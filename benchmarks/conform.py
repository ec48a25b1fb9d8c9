"""Other tools and halve in their mode quantize the same weights: every code and every scale is compared.

    python benchmarks/peers.py NAME --prepare    # llm-compressor, modelopt, torchao: once each
    python benchmarks/conform.py [--quick] [--json] [--golden]

The tools run in their own environments, through the functions that their users call. The weights are those of
tests/golden/conform/weights.py, in each dtype that the tool takes, and ten million more, which ``--quick`` leaves out.
``--golden`` writes hashes of what the tools gave to tests/golden/conform/, for the default tests to compare with.
llm-compressor also quantizes the whole of SmolLM2 in BF16, and each tensor of its files is compared byte for byte.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

os.environ.setdefault("HALVE_REQUIRE_NATIVE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the tools: their threads spin where others want the cores

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save_file

import halve
import peers
from halve import formats
from halve.checkpoint.base import DTYPES, Checkpoint, read_array
from halve.checkpoint.hf import HfCheckpoint
from halve.codecs import dispatch
from halve.pipeline import smollm2
from halve.schemes import Block, conform
from measure import Figure

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.append(str(TESTS))
from golden.conform import weights  # noqa: E402 - shared with the default tests
from golden.conform.formats import FORMATS, Tensor, ours  # noqa: E402

GOLDEN = TESTS / "golden" / "conform"
PEERS = {"compressed-tensors": "llm-compressor", "modelopt": "modelopt", "torchao": "torchao"}
GOAL = ("nvfp4", "mxfp4", "fp8_row", "fp8_tensor", "int4")  # what issue 4 asks for; the others come beside
PRESETS = {"NVFP4A16": "nvfp4a16", "MXFP4A16": "mxfp4a16", "FP8_DYNAMIC": "fp8_dynamic"}  # W4A16 wants columns of 128
Parts = dict[str, NDArray[np.generic]]


def theirs(tool: str, source: dict[str, NDArray[np.floating]]) -> dict[tuple[str, str], Parts]:
    """What a tool makes of weights: codes, scales and the like by (weight, format)."""
    with tempfile.TemporaryDirectory() as name:
        given, taken = Path(name) / "in.safetensors", Path(name) / "out.safetensors"
        save_file(source, given)
        peers.run(PEERS[tool], f"conform_{tool.replace('-', '_')}.py", given, taken)
        found: dict[tuple[str, str], Parts] = {}
        for path, entry in safetensors.deserialize(taken.read_bytes()):
            weight, fmt, part = path.split("/")
            array = np.frombuffer(entry["data"], DTYPES[entry["dtype"]]).reshape(entry["shape"])
            found.setdefault((weight, fmt), {})[part] = array
        return found


def in_our_terms(block: Block, parts: Parts) -> Tensor:
    """A tool's parts with codes as bit patterns, scales as numbers."""
    codes = parts["codes"]
    if codes.dtype == np.int8:
        bits = block.element_format.bits
        codes = (codes + 8 * block.zero_point).view(np.uint8) & np.uint8((1 << bits) - 1)
    scales = parts["scales"]
    if block.scale == "e8m0":
        scales = dispatch.decode(formats.get("e8m0"), scales)
    shape = block.scale_shape(*codes.shape)
    found = Tensor(codes.view(np.uint8), scales.astype(np.float32).reshape(shape))
    if "zeros" in parts:
        return replace(found, zeros=(parts["zeros"] + 8).view(np.uint8).reshape(shape))
    factor = parts.get("divisor", parts.get("factor"))
    return found if factor is None else replace(found, tensor=np.float32(factor.reshape(())))


def undefined(them: Tensor) -> NDArray[np.bool_]:
    """Blocks whose scale is zero or NaN, so that their codes mean nothing."""
    return ~np.isfinite(them.scales) | (them.scales == 0)


@dataclass(slots=True)
class Tally:
    """Counts over weights: what was compared, what differs, what the tool itself leaves undefined."""

    codes: int = 0
    codes_apart: int = 0
    scales: int = 0
    scales_apart: int = 0
    others_apart: int = 0  # tensor scales and zero points
    undefined: int = 0  # blocks
    apart: list[str] = field(default_factory=list)

    def add(self, name: str, block: Block, we: Tensor, them: Tensor) -> None:
        """Compare one weight."""
        void = undefined(them)
        height, width = block.tile(*them.codes.shape)
        codes = (we.codes != them.codes) & ~void.repeat(height, 0).repeat(width, 1)
        scales = (we.scales != them.scales) & ~void
        others = 0 if we.zeros is None else int((we.zeros != them.zeros).sum())
        others += int(we.tensor != them.tensor and not void.all())
        self.codes += them.codes.size
        self.scales += them.scales.size
        self.codes_apart += int(codes.sum())
        self.scales_apart += int(scales.sum())
        self.others_apart += others
        self.undefined += int(void.sum())
        if codes.any() or scales.any() or others or not np.isfinite(we.scales).all():
            self.apart.append(name)

    def figure(self, metric: str) -> Figure:
        """All that differs."""
        return Figure(
            metric=metric,
            value=self.codes_apart + self.scales_apart + self.others_apart,
            unit="apart",
            goal=f"{self.codes_apart} of {self.codes:,} codes, {self.scales_apart} of {self.scales:,} scales, "
            f"{self.others_apart} others apart; {self.undefined:,} blocks undefined"
            + (f"; first {self.apart[0]}" if self.apart else ""),
            met=not self.apart,
        )


def compare(tool: str, source: dict[str, NDArray[np.floating]]) -> Iterator[tuple[str, Tally, dict[str, str | None]]]:
    """For each format of a tool: counts, and hashes by weight of what it gave (None where it left blocks undefined)."""
    found = theirs(tool, source)
    for fmt in FORMATS:
        block, tally, hashes = FORMATS[fmt][0], Tally(), {}
        for name, w in source.items():
            if (name, fmt) not in found:  # a dtype that it does not take
                continue
            parts = found[name, fmt]
            them, scale = in_our_terms(block, parts), stored_scale(parts)
            tally.add(name, block, ours(conform.get(tool), fmt, w, scale), them)
            hashes[name] = None if undefined(them).any() else f"{scale} {them.digest()}"
        if hashes:
            yield fmt, tally, hashes


def stored_scale(parts: Parts) -> str:
    """The format of floating-point scales, by the dtype in which the tool stores them."""
    return {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}.get(parts["scales"].dtype.name, "")


def differing(ours: Checkpoint, theirs: Checkpoint) -> list[str]:
    """Names of tensors that only one of two checkpoints has, or that they do not hold byte for byte."""
    names = ours.tensors.keys() ^ theirs.tensors.keys()
    both = ours.tensors.keys() & theirs.tensors.keys()
    return sorted(names | {n for n in both if read_array(ours, n).tobytes() != read_array(theirs, n).tobytes()})


def checkpoints() -> dict[str, list[str]]:
    """For each preset of llm-compressor, the tensors of SmolLM2 that differ."""
    wrong = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        halve.quantize(smollm2.fetch(), folder / "bf16", "bf16")
        for preset, scheme in PRESETS.items():
            peers.run("llm-compressor", "llmcompressor_model_free.py", folder / "bf16", folder / preset, preset)
            halve.quantize(folder / "bf16", folder / scheme, scheme, conform="compressed-tensors")
            wrong[preset] = differing(HfCheckpoint(folder / scheme), HfCheckpoint(folder / preset))
    return wrong


def main() -> None:
    """Compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="without the largest weights")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--golden", action="store_true", help="write tests/golden/conform/TOOL.json")
    args = parser.parse_args()
    drawn = weights.drawn()
    source = drawn if args.quick else drawn | weights.large()
    equal, missing = 0, []
    for tool, peer in PEERS.items():
        if peers.python(peer) is None:
            missing.append(peer)
            continue
        golden = {}
        for fmt, tally, hashes in compare(tool, source):
            golden[fmt] = {name: value for name, value in hashes.items() if name in drawn}
            equal += fmt in GOAL and not tally.apart
            tally.figure(f"conform_{tool}_{fmt}").print(as_json=args.json)
        if args.golden:
            (GOLDEN / f"{tool}.json").write_text(json.dumps(golden, indent=1) + "\n")
    pairs = len(PEERS) * len(GOAL)
    Figure(
        metric="conform_codes_equal",
        value=equal,
        unit="tool x format",
        peer=", ".join(missing),
        peer_value=None if missing else pairs,
        ratio=equal / pairs,
        goal=f"all codes, scales and tensor scales of {', '.join(PEERS)} x {', '.join(GOAL)}",
        met=equal == pairs,
    ).print(as_json=args.json)
    whole = {} if peers.python("llm-compressor") is None else checkpoints()
    same = [preset for preset, wrong in whole.items() if not wrong]
    Figure(
        metric="conform_checkpoints_equal",
        value=len(same),
        unit="presets",
        peer="llm-compressor",
        peer_value=len(PRESETS) if whole else None,
        goal=f"every tensor of SmolLM2 in {', '.join(PRESETS)}, byte for byte",
        met=len(same) == len(PRESETS),
    ).print(as_json=args.json)


if __name__ == "__main__":
    main()
