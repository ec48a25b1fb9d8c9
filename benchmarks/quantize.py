"""How fast, and in how much memory, `halve quantize` turns checkpoints into 4 and 8 bits, beside llm-compressor.

    python benchmarks/peers.py llm-compressor --prepare    # once
    python benchmarks/quantize.py [--quick] [--json]

Both programs run as whole processes, start to exit, alternately on the same BF16 files in the page cache. ``--quick``
runs each once, and leaves the 7B-sized checkpoint out.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import peers
import synthetic
from measure import Figure, Run, halve

PEER = "llm-compressor"
SCHEMES = {"nvfp4a16": 8.0, "mxfp4a16": 8.0, "fp8_dynamic": 4.0}  # scheme -> goal: times faster than the peer
MAX_RSS = 700e6
RATE_GOAL = 0.7
PAIRS_7B = 3
READ_BLOCK = 8 << 20
ROOM_7B = 20e9  # bytes: the checkpoint, and what is made of it


def quantize(source: Path, scheme: str) -> Run:
    """One run of halve into a folder that is removed again."""
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        return halve("quantize", source, Path(folder) / "out", "--scheme", scheme, "--json")


def peer_quantize(source: Path, scheme: str) -> Run | None:
    """One run of the peer; None where it is not installed."""
    if peers.python(PEER) is None:
        return None
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        return peers.run(PEER, "llmcompressor_model_free.py", source, Path(folder) / "out", scheme.upper())


def walls(source: Path, repeats: int, *, as_json: bool) -> int:
    """Wall time and peak memory of each scheme against the peer; returns the largest peak of halve."""
    peak = peer_peak = 0
    for scheme, goal in SCHEMES.items():
        ours, theirs = [], []
        for _ in range(repeats):
            ours.append(quantize(source, scheme))
            theirs.append(peer_quantize(source, scheme))
        peak = max(peak, *(run.max_rss for run in ours))
        seconds = median(run.seconds for run in ours)
        known = [run for run in theirs if run]
        peer_seconds = median(run.seconds for run in known) if known else None
        peer_peak = max([peer_peak, *(run.max_rss for run in known)])
        ratio = peer_seconds / seconds if peer_seconds else None
        Figure(
            metric=f"quantize_{scheme}_wall",
            value=seconds,
            unit="s",
            peer=PEER,
            peer_value=peer_seconds,
            ratio=ratio,
            goal=f">= {goal:g}x faster",
            met=ratio is not None and ratio >= goal,
        ).print(as_json=as_json)
    Figure(
        metric="quantize_peak_rss",
        value=peak / 1e6,
        unit="MB",
        peer=PEER,
        peer_value=peer_peak / 1e6 if peer_peak else None,
        ratio=peak / peer_peak if peer_peak else None,
        goal=f"<= {MAX_RSS / 1e6:g} MB and <= 1/3 of the peer's",
        met=peak <= MAX_RSS and 0 < 3 * peak <= peer_peak,
    ).print(as_json=as_json)
    return peak


def drop_pages(folder: Path) -> None:
    """Let the files of ``folder`` leave the page cache."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_rate(folder: Path) -> float:
    """Bytes per second of reading the files of ``folder`` from disk, one after the other."""
    drop_pages(folder)
    block = bytearray(READ_BLOCK)
    began, total = time.perf_counter(), 0
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(block):
                total += count
    return total / (time.perf_counter() - began)


def rate_7b(folder: Path, small_peak: int, *, as_json: bool) -> None:
    """Rate of a 7B-sized checkpoint read from disk, against the disk's own; peak memory against the small model's."""
    source = folder / "7b"
    synthetic.write(source, "7b")
    size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    pairs = []
    for _ in range(PAIRS_7B):  # the disk swings by 2x from minute to minute: compare neighbours
        disk = read_rate(source)
        drop_pages(source)
        run = quantize(source, "nvfp4a16")
        pairs.append((size / run.seconds / disk, size / run.seconds, disk, run.max_rss))
    ratio, rate, disk, _ = sorted(pairs)[PAIRS_7B // 2]
    peak = max(max_rss for *_, max_rss in pairs)
    Figure(
        metric="quantize_7b_rate",
        value=rate / 1e9,
        unit="GB/s",
        peer="sequential read of the same files",
        peer_value=disk / 1e9,
        ratio=ratio,
        goal=f">= {RATE_GOAL} of the disk, median of {PAIRS_7B}",
        met=ratio >= RATE_GOAL,
    ).print(as_json=as_json)
    Figure(
        metric="quantize_7b_peak_rss",
        value=peak / 1e6,
        unit="MB",
        peer="the 0.5B model",
        peer_value=small_peak / 1e6,
        ratio=peak / small_peak,
        goal="within 10 % of the small model's",
        met=peak <= 1.1 * small_peak,
    ).print(as_json=as_json)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="one run each, no 7B checkpoint")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--work", type=Path, default=Path("build/benchmarks"), help="scratch folder on the disk to test"
    )
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.work) as name:
        folder = Path(name)
        synthetic.write(folder / "500m", "500m")
        peak = walls(folder / "500m", 1 if args.quick else 3, as_json=args.json)
        if args.quick or shutil.disk_usage(folder).free < ROOM_7B:
            left_out = "--quick" if args.quick else f"less than {ROOM_7B / 1e9:.0f} GB are free"
            for metric, unit in (("quantize_7b_rate", "GB/s"), ("quantize_7b_peak_rss", "MB")):
                Figure(metric=metric, value=None, unit=unit, goal=f"not measured: {left_out}", met=False).print(
                    as_json=args.json
                )
            return
        rate_7b(folder, peak, as_json=args.json)


if __name__ == "__main__":
    main()
