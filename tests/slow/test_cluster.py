"""The main job on three machines of a Ray cluster, which are raylets on this one. `nox -s ray` installs the rest."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from halve.pipeline.calibrate import calibrate
from tiny import llama, speaker

pytest.importorskip("ray", reason="Ray is not installed: nox -s ray")
pytest.importorskip("psutil", reason="psutil is not installed: nox -s ray")
BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
sys.path.insert(0, BENCHMARKS)

import synthetic  # noqa: E402
from interrupted import Job, hashes  # noqa: E402
from machines import Machines  # noqa: E402

# Ray's own processes and sockets outlive the tests that start them.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def machines():
    with Machines(3) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster") / "source"
    synthetic.write(folder, "500m")
    return folder


def alone(job, tmp_path):
    (tmp_path / "alone").mkdir()
    job.finish(tmp_path / "alone" / "out")
    return hashes(tmp_path / "alone" / "out")


@pytest.mark.parametrize(
    ("scheme", "options"),
    [("nvfp4a16", ()), ("w4a16", ("--layout", "gptq")), ("fp8_dynamic", ())],
    ids=["fused", "turned", "plain"],
)
def test_the_bytes_are_those_of_one_machine(machines, source, tmp_path, scheme, options):
    """Shards this small cut fused groups apart."""
    job = Job(source, scheme, threads=1, options=("--shard-size", "12MB", *options))
    job.on(machines.address).finish(tmp_path / "cluster" / "out")
    assert hashes(tmp_path / "cluster" / "out") == alone(job, tmp_path)


def test_statistics_and_transforms_travel(machines, tmp_path):
    source = speaker.write(tmp_path / "source", num_hidden_layers=4)
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 100)
    calibrate(source, tmp_path / "statistics", texts=[str(tmp_path / "text.txt")], windows=3, window=32)
    options = ("--stats", str(tmp_path / "statistics"), "--algorithm", "gptq", "--transform", "awq")
    job = Job(source, "w4a16", threads=1, options=(*options, "--shard-size", "200kB"))
    job.on(machines.address).finish(tmp_path / "cluster" / "out")
    assert hashes(tmp_path / "cluster" / "out") == alone(job, tmp_path)


def test_a_machine_dies(machines, source, tmp_path):
    job = Job(source, "nvfp4a16", threads=1, options=("--shard-size", "20MB"))
    out = tmp_path / "cluster" / "out"
    process = job.on(machines.address).start(out)
    journal = out / ".halve" / "journal"
    while process.poll() is None and not (journal.exists() and journal.stat().st_size):
        time.sleep(0.05)
    assert machines.kill(0) > 0
    _, said = process.communicate(timeout=300)
    machines.replace()
    assert process.returncode == 0, said
    assert hashes(out) == alone(job, tmp_path)


def test_the_driver_dies_and_one_machine_goes_on(machines, source, tmp_path):
    job = Job(source, "nvfp4a16", threads=1, options=("--shard-size", "20MB"))
    out = tmp_path / "cluster" / "out"
    process = job.on(machines.address).start(out)
    journal = out / ".halve" / "journal"
    while process.poll() is None and not (journal.exists() and journal.stat().st_size):
        time.sleep(0.05)
    process.kill()
    process.communicate()
    job.finish(out, resume=True)
    assert hashes(out) == alone(job, tmp_path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_says_how_to_go_on(machines, source, tmp_path, number, code):
    job = Job(source, "nvfp4a16", threads=1, options=("--shard-size", "20MB"))
    out = tmp_path / "cluster" / "out"
    process = job.on(machines.address).start(out)
    journal = out / ".halve" / "journal"
    while process.poll() is None and not (journal.exists() and journal.stat().st_size):
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "to go on: halve quantize" in said
    assert "Traceback" not in said
    job.on(machines.address).finish(out, resume=True)
    assert hashes(out) == alone(job, tmp_path)


def test_errors_of_the_work_are_ours(machines, tmp_path):
    weights = llama.weights()
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    source = llama.write(tmp_path / "source", weights)
    line = ["quantize", source, tmp_path / "out", "--scheme", "nvfp4a16", "--cluster", machines.address]
    done = subprocess.run([sys.executable, "-m", "halve", *map(str, line)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "up_proj.weight: 1 values are not finite" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("address", "says"), [("127.0.0.1:1", "no Ray cluster answers"), ("here", "is no address of a Ray cluster")]
)
def test_where_no_cluster_answers(tmp_path, address, says):
    source = llama.write(tmp_path / "source")
    line = ["quantize", source, tmp_path / "out", "--scheme", "w8a8", "--cluster", address]
    done = subprocess.run([sys.executable, "-m", "halve", *map(str, line)], capture_output=True, text=True)
    assert done.returncode == 2
    assert says in done.stderr


def test_the_log_tells_of_the_cluster(machines, tmp_path):
    source, log = llama.write(tmp_path / "source"), tmp_path / "log"
    line = ["quantize", source, tmp_path / "out", "--scheme", "w8a8", "--cluster", machines.address, "--log", log]
    subprocess.run([sys.executable, "-m", "halve", *map(str, line)], check=True, capture_output=True)
    assert "cluster" in [json.loads(line).get("stage") for line in log.read_text().splitlines()]
