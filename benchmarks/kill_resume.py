"""SIGKILL at random moments of `halve quantize`, and whether what is resumed comes out as if nothing had been.

    python benchmarks/kill_resume.py [--runs 50] [--shape 1b] [--threads 1] [--seed 0] [--work DIR]

Prints one JSON object: how many runs were killed, how many of them came out byte for byte (every file of the folder) as
the uninterrupted run, and what share of the tensors the resumed runs found finished.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from statistics import fmean

import synthetic
from interrupted import Job, hashes, kept

SCHEME = "nvfp4a16"


def killed(job: Job, out: Path, after: float) -> bool:
    """Kill the job ``after`` seconds from its start; False where it was done by then."""
    process = job.start(out)
    try:
        process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    return process.returncode == -signal.SIGKILL


def measure(job: Job, work: Path, runs: int, seed: int) -> dict[str, object]:
    """Kill and resume ``runs`` times."""
    whole = work / "whole" / "out"  # the model card names the folder
    whole.parent.mkdir()
    seconds = job.finish(whole)
    expected, moments = hashes(whole), random.Random(seed)
    tensors = len(synthetic_tensors(whole))
    shutil.rmtree(whole)
    identical = leftovers = early = 0
    shares = []
    for run in range(runs):
        out = work / str(run) / "out"
        out.parent.mkdir()
        while not killed(job, out, moments.uniform(0, seconds)):
            early += 1  # it was faster than the first
            shutil.rmtree(out)
        shares.append(kept(out) / tensors)
        leftovers += out.exists()
        job.finish(out, resume=True)
        identical += hashes(out) == expected
        shutil.rmtree(out.parent)
    return {
        "metric": "kill_resume",
        "runs": runs,
        "identical": identical,
        "resumed_from_something": sum(share > 0 for share in shares),
        "left_a_folder": leftovers,
        "mean_share_finished": round(fmean(shares), 3),
        "done_before_the_kill": early,
        "seconds_uninterrupted": round(seconds, 2),
        "goal": f"{runs} identical",
        "met": identical == runs,
    }


def synthetic_tensors(out: Path) -> list[str]:
    """Names of the source's tensors, from what was made of it."""
    made = json.loads((out / "halve.json").read_bytes())["tensors"]
    return sorted({name.rpartition(".")[0] for name in made})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=50, metavar="N")
    parser.add_argument("--shape", choices=synthetic.SHAPES, default="1b")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="few make the job long enough to hit")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"), help="scratch folder")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.work) as name:
        synthetic.write(Path(name) / "source", args.shape)
        job = Job(Path(name) / "source", SCHEME, args.threads)
        print(json.dumps(measure(job, Path(name), args.runs, args.seed)))


if __name__ == "__main__":
    main()
