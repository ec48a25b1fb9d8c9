"""One of three Ray machines killed at random moments of `halve quantize --cluster`, with its workers.

    pip install 'halve[ray]' psutil
    python benchmarks/ray_kill.py [--runs 5] [--shape 1b] [--shard-bytes 100000000] [--seed 0] [--work DIR]

The machines are raylets on this one, of a processor each. Prints one JSON object: how many runs ended with the files of
a run without a cluster, byte for byte, and how many of the machines had a worker of ours when they died.
"""

import argparse
import json
import random
import shutil
import tempfile
import time
from pathlib import Path

import synthetic
from interrupted import Job, hashes
from machines import Machines

SCHEME = "nvfp4a16"
MACHINES = 3


def measure(job: Job, work: Path, runs: int, seed: int) -> dict[str, object]:
    """Kill ``runs`` times."""
    alone, out, chosen = work / "alone" / "out", work / "cluster" / "out", random.Random(seed)
    alone.parent.mkdir()
    out.parent.mkdir()
    seconds_alone = job.finish(alone)
    expected = hashes(alone)
    shutil.rmtree(alone)
    identical, busy, times = 0, 0, []
    with Machines(MACHINES) as machines:
        elsewhere = job.on(machines.address)
        seconds = elsewhere.finish(out)
        same = hashes(out) == expected
        shutil.rmtree(out)
        for _ in range(runs):
            process = elsewhere.start(out)
            began = time.perf_counter()
            time.sleep(chosen.uniform(0, seconds))
            busy += machines.kill(chosen.randrange(MACHINES - 1)) > 0 and process.poll() is None
            _, said = process.communicate()
            times.append(time.perf_counter() - began)
            identical += process.returncode == 0 and hashes(out) == expected
            if process.returncode:
                print(said)
            shutil.rmtree(out, ignore_errors=True)
            machines.replace()
    return {
        "metric": "ray_kill",
        "runs": runs,
        "identical": identical,
        "died_with_workers": busy,
        "identical_without_a_death": same,
        "seconds_alone": round(seconds_alone, 1),
        "seconds_on_three": round(seconds, 1),
        "seconds_with_a_death": [round(one, 1) for one in times],
        "goal": f"{runs} identical",
        "met": identical == runs and same,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=5, metavar="N")
    parser.add_argument("--shape", choices=synthetic.SHAPES, default="1b")
    parser.add_argument("--shard-bytes", type=int, default=100_000_000, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"), help="scratch folder")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.work) as name:
        source = Path(name) / "source"
        synthetic.write(source, args.shape)
        job = Job(source, SCHEME, threads=1, options=("--shard-size", str(args.shard_bytes)))
        print(json.dumps(measure(job, Path(name), args.runs, args.seed)))


if __name__ == "__main__":
    main()
