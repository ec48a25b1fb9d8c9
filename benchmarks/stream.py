"""`halve quantize --memory 1GiB` of checkpoints larger than that, beside a sequential read of the same files.

    python benchmarks/stream.py [stream_7b] [moe_stream] [--memory 1GiB] [--scheme nvfp4a16] [--pairs 3] [--work DIR]

``stream_7b`` is the shape of Llama-2-7B in BF16, 13.5 GB; ``moe_stream`` has packed 3-D experts, 9 GB,
of which one tensor takes more than the limit. Where the disk
has no room for the source and what is made of it, there are fewer layers, and the result says how many. Source files
leave the page cache before each reading (posix_fadvise); reading and quantizing take turns, for the rate of a disk
changes, and the median of the ratios counts. Prints one JSON object for each; what it wrote is removed at once.
"""

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

import synthetic
from measure import halve
from quantize import drop_pages, read_rate

PEAK_GOAL = 1.2 * 2**30
RATE_GOAL = 0.8
SHARE = 1.4  # of the source's bytes: it, and what is made of it
KEPT_FREE = 6e9  # bytes of the disk that are left alone
SHAPES = {"stream_7b": synthetic.SHAPES["7b"], "moe_stream": synthetic.SHAPES["packed"]}


def fitting(shape: synthetic.Shape, folder: Path) -> synthetic.Shape:
    """``shape`` with as many of its layers as the disk has room for."""
    room = shutil.disk_usage(folder).free - KEPT_FREE
    while shape.layers > 1 and shape.parameters * synthetic.ITEM * SHARE > room:
        shape = replace(shape, layers=shape.layers - 1)
    return shape


def stream(metric: str, folder: Path, *, scheme: str, memory: str, pairs: int) -> dict[str, object]:
    """Rates and peak memory for one source."""
    full = SHAPES[metric]
    shape = fitting(full, folder)
    source = folder / metric
    synthetic.write(source, shape)
    size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    runs = []
    for _ in range(pairs):
        disk = read_rate(source)
        drop_pages(source)
        run = halve("quantize", source, folder / "out", "--scheme", scheme, "--memory", memory, "--json")
        shutil.rmtree(folder / "out")
        runs.append((size / run.seconds, disk, run.max_rss))
    shutil.rmtree(source)
    ratio, peak = median(rate / disk for rate, disk, _ in runs), max(max_rss for *_, max_rss in runs)
    rated = metric == "stream_7b"
    goal = f">= {RATE_GOAL} of the disk, " * rated + "ru_maxrss <= 1.2 GiB"
    return {
        "metric": metric,
        "source_bytes": size,
        "layers": f"{shape.layers} of {full.layers}" + ", scaled down: the disk is small" * (shape != full),
        "memory": memory,
        "ratio": round(ratio, 3),
        "gb_per_second": [round(rate / 1e9, 2) for rate, *_ in runs],
        "read_gb_per_second": [round(disk / 1e9, 2) for _, disk, _ in runs],
        "max_rss_mib": round(peak / 2**20),
        "goal": goal,
        "met": peak <= PEAK_GOAL and (ratio >= RATE_GOAL or not rated),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("metrics", nargs="*", default=list(SHAPES), metavar="METRIC", help=" or ".join(SHAPES))
    parser.add_argument("--memory", default="1GiB", metavar="SIZE")
    parser.add_argument("--scheme", default="nvfp4a16", metavar="NAME")
    parser.add_argument("--pairs", type=int, default=3, metavar="N")
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"), help="folder on the disk to test")
    args = parser.parse_args()
    if unknown := set(args.metrics) - SHAPES.keys():
        parser.error(f"no metric is called {' or '.join(unknown)}")
    args.work.mkdir(parents=True, exist_ok=True)
    for metric in args.metrics:
        with tempfile.TemporaryDirectory(dir=args.work) as folder:
            found = stream(metric, Path(folder), scheme=args.scheme, memory=args.memory, pairs=args.pairs)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
