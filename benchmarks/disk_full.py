"""A disk that fills up at random moments of `halve quantize`: a clean error each time, and the same bytes in the end.

    python benchmarks/disk_full.py [--runs 20] [--shape 1b] [--seed 0]       # as root, or in a user namespace:
    unshare --user --map-root-user --mount python benchmarks/disk_full.py

The disk is a tmpfs of its own. Every other run finds it too small from the start. In the others it has room enough
until the job has begun, without reserving what it will need, as on file systems that cannot; then something else takes
all but a random part of the room. Clean means: exit code 1, ``error:`` and ``hint:``, no traceback. The room is given
back, `--resume` finishes, and every file is compared with that of a run in peace. Prints one JSON object.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import synthetic
from interrupted import Job, hashes, kept
from measure import ENVIRONMENT

SCHEME = "nvfp4a16"
SLACK = 8 << 20  # bytes of the disk beyond what the job writes
NO_RESERVING = """
import errno, os, sys
def refuse(*_): raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
os.posix_fallocate = refuse  # as NFS before 4.2: what is written is what is taken
sys.argv[0] = "halve"
from halve.cli.main import run
run()
"""


def resize(disk: Path, nbytes: int) -> None:
    """Give the tmpfs at ``disk`` another size."""
    subprocess.run(["mount", "-o", f"remount,size={nbytes}", "tmpfs", disk], check=True)


def attempt(job: Job, out: Path, *, room: int | None) -> subprocess.CompletedProcess[str]:
    """Run the job to its end; once it has begun, take all but ``room`` bytes of what the disk then has free."""
    line = job.command(out)
    line[1:3] = ["-c", NO_RESERVING]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    if room is not None:
        while process.poll() is None and not list(out.glob("*.part")):
            time.sleep(0.001)
        with (out.parent / "ballast").open("wb") as ballast:
            free = shutil.disk_usage(out.parent).free
            if free > room:
                os.posix_fallocate(ballast.fileno(), 0, free - room)
    stdout, stderr = process.communicate()
    (out.parent / "ballast").unlink(missing_ok=True)
    return subprocess.CompletedProcess(line, process.returncode, stdout, stderr)


def clean(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether it failed as a program should."""
    said = done.stderr.strip().splitlines()
    told = any(line.startswith("error: ") for line in said) and any(line.startswith("hint: ") for line in said)
    return done.returncode == 1 and told and "Traceback" not in done.stderr and not done.stdout


def measure(job: Job, disk: Path, runs: int, seed: int) -> dict[str, object]:
    """Fill the disk ``runs`` times."""
    out, chosen = disk / "out", random.Random(seed)
    job.finish(out)
    expected, size = hashes(out), sum(path.stat().st_size for path in out.rglob("*"))
    shutil.rmtree(out)
    errors = identical = kept_something = 0
    for run in range(runs):
        small = run % 2 == 0
        if small:
            resize(disk, chosen.randrange(os.sysconf("SC_PAGESIZE"), size))
        done = attempt(job, out, room=None if small else chosen.randrange(size))
        kept_something += kept(out) > 0
        if clean(done):
            errors += 1
        else:
            print(done.returncode, done.stderr, file=sys.stderr)
        resize(disk, size + SLACK)
        job.finish(out, resume=True)
        identical += hashes(out) == expected
        shutil.rmtree(out)
    return {
        "metric": "disk_full",
        "runs": runs,
        "clean_errors": errors,
        "identical_after_resume": identical,
        "resumed_from_something": kept_something,
        "bytes_written_in_peace": size,
        "goal": f"{runs} clean errors, all resumable",
        "met": errors == identical == runs,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=20, metavar="N")
    parser.add_argument("--shape", choices=synthetic.SHAPES, default="1b")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"), help="scratch folder")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.work) as name:
        source, disk = Path(name) / "source", Path(name) / "disk"
        synthetic.write(source, args.shape)
        disk.mkdir()
        size = synthetic.SHAPES[args.shape].parameters * synthetic.ITEM
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
        try:
            print(json.dumps(measure(Job(source, SCHEME, args.threads), disk, args.runs, args.seed)))
        finally:
            subprocess.run(["umount", disk], check=True)


if __name__ == "__main__":
    main()
