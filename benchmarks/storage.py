"""`halve quantize` from an S3-like server on this machine, beside a plain sequential read of the same files by s3fs.

    python benchmarks/storage.py [--shape 500m] [--memory 1GiB] [--pairs 3] [--work DIR]

The source is synthetic: 1.0 GB of BF16 in files of 100 MB for ``500m``. Reading and quantizing take turns, and the
median of the ratios counts; the bytes are compared with those of a local job. ``mxfp4a16`` reads every weight once,
``nvfp4a16`` twice. The server is a process of Python on the same processors, so the rates are no network's: what the
ratio says is whether halve keeps such a connection busy. Prints one JSON object for each. Needs s3fs and moto[server].
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import synthetic
from interrupted import hashes
from measure import ENVIRONMENT, Run, halve, run

PEAK_GOAL = 1.2 * 2**30
SHARD = 100_000_000  # bytes of a source file
BLOCK = 8 << 20  # bytes that the plain reader asks for at a time
JOBS = {  # metric -> scheme, and whether the result goes to the server as well
    "s3_read_once": ("mxfp4a16", False),
    "s3_read_twice": ("nvfp4a16", False),
    "s3_both_ends": ("mxfp4a16", True),
}
READER = """
import sys, s3fs
filesystem, total = s3fs.S3FileSystem(), 0
for path in sorted(filesystem.ls(sys.argv[1])):
    with filesystem.open(path, "rb", block_size=int(sys.argv[2]), cache_type="readahead") as file:
        while chunk := file.read(int(sys.argv[2])):
            total += len(chunk)
print(total)
"""
UPLOADER = """
import sys, s3fs
s3fs.S3FileSystem().put(sys.argv[1] + "/", sys.argv[2] + "/", recursive=True)
"""
FETCHER = """
import sys, s3fs
s3fs.S3FileSystem().get(sys.argv[1] + "/", sys.argv[2] + "/", recursive=True)
"""


def script(text: str, *arguments: str | Path) -> Run:
    """Run a script of Python."""
    return run(sys.executable, "-c", text, *arguments)


def measured(metric: str, folder: Path, size: int, *, memory: str, pairs: int) -> dict[str, object]:
    """Rates and peak memory of one job, and of the plain reader before each."""
    scheme, there = JOBS[metric]
    local = folder / f"local-{metric}"
    halve("quantize", folder / "source", local, "--scheme", scheme, "--memory", memory)
    runs, sent, same = [], [], True
    for pair in range(pairs):
        plain = script(READER, "bucket/source", str(BLOCK))
        out = f"s3://bucket/{metric}-{pair}" if there else str(folder / metric)
        job = halve("quantize", "s3://bucket/source", out, "--scheme", scheme, "--memory", memory, "--json")
        if there:
            sent.append(script(UPLOADER, local, f"bucket/plain-{pair}").seconds)
            script(FETCHER, out.removeprefix("s3://"), folder / metric)
        same &= hashes(folder / metric) == hashes(local)
        shutil.rmtree(folder / metric)
        runs.append((size / job.seconds, size / plain.seconds, job.max_rss, plain.max_rss))
    shutil.rmtree(local)
    peak = max(rss for _, _, rss, _ in runs)
    return {
        "metric": metric,
        "scheme": scheme,
        "source_bytes": size,
        "memory": memory,
        "gb_s": [round(rate / 1e9, 3) for rate, *_ in runs],
        "plain_gb_s": [round(plain / 1e9, 3) for _, plain, *_ in runs],
        "seconds": [round(size / rate, 1) for rate, *_ in runs],
        "plain_sent_seconds": [round(seconds, 1) for seconds in sent],  # s3fs alone, of the files that were made
        "ratio": round(median(rate / plain for rate, plain, *_ in runs), 3),
        "max_rss_mib": round(peak / 2**20),
        "plain_max_rss_mib": round(max(rss for *_, rss in runs) / 2**20),
        "identical": same,
        "met": same and peak <= PEAK_GOAL,
    }


def main() -> int:
    """Exit 1 where bytes differ or memory is above the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metrics", nargs="*", choices=[[], *JOBS])
    parser.add_argument("--shape", default="500m", choices=synthetic.SHAPES)
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="storage-", dir=options.work))
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("object_store.py"))], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        ENVIRONMENT.update(json.loads(server.stdout.readline()))
        synthetic.write(folder / "source", options.shape, shard_bytes=SHARD)
        size = sum(path.stat().st_size for path in (folder / "source").iterdir())
        script(UPLOADER, folder / "source", "bucket/source")
        met = True
        for metric in options.metrics or JOBS:
            found = measured(metric, folder, size, memory=options.memory, pairs=options.pairs)
            print(json.dumps(found), flush=True)
            met &= bool(found["met"])
        return 0 if met else 1
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
