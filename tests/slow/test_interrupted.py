"""Small runs of the benchmarks that kill a job and fill its disk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def measured(name, tmp_path, *arguments):
    command = [sys.executable, BENCHMARKS / f"{name}.py", "--work", tmp_path, *arguments]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_killed_at_random_moments(tmp_path):
    found = measured("kill_resume", tmp_path, "--runs", "6", "--shape", "500m")
    assert found["identical"] == 6, found


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs, which needs root")
def test_a_disk_that_fills_up_at_random_moments(tmp_path):
    found = measured("disk_full", tmp_path, "--runs", "4", "--shape", "500m")
    assert (found["clean_errors"], found["identical_after_resume"]) == (4, 4), found
