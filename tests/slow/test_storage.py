"""Jobs from and to an S3-like server on this machine that fails in every way it can. `nox -s storage`."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

import halve
from tiny import llama

pytest.importorskip("s3fs", reason="s3fs is not installed: nox -s storage")
pytest.importorskip("moto.server", reason="moto[server] is not installed: nox -s storage")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from object_store import ObjectStore

# Servers, event loops and sockets of others outlive the tests that start them.
pytestmark = pytest.mark.filterwarnings("ignore")
SHARD = "20kB"


@pytest.fixture(scope="module")
def store():
    with ObjectStore() as found:
        yield found


@pytest.fixture(autouse=True)
def _sound(store):
    yield
    store.faults.clear()
    store.release.set()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = llama.write(tmp_path_factory.mktemp("storage") / "source", shards=3)
    (folder / "tokenizer.json").unlink()
    return folder


@pytest.fixture(scope="module")
def there(store, source):
    return store.put(source, "source")


@pytest.fixture(scope="module")
def local(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("storage") / "out"
    halve.quantize(source, out, "nvfp4a16", shard_bytes=20_000)
    return contents(out)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def command(*line):
    return [sys.executable, "-m", "halve", *map(str, line)]


def run(store, *line, code=0):
    done = subprocess.run(command(*line), capture_output=True, text=True, env=store.environment, timeout=300)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def quantized(store, name, there, *options, code=0):
    line = ("quantize", there, f"s3://bucket/{name}", "--scheme", "nvfp4a16", "--shard-size", SHARD)
    return run(store, *line, "--threads", "2", *options, code=code)


def test_from_and_to_a_bucket(store, there, local):
    quantized(store, "sound", there)
    assert store.get("sound") == local
    assert not store.uploads
    run(store, "verify", "s3://bucket/sound", "--against", there)


def test_to_this_machine(store, there, local, tmp_path):
    run(store, "quantize", there, tmp_path / "out", "--scheme", "nvfp4a16", "--shard-size", SHARD)
    assert contents(tmp_path / "out") == local


def test_only_headers_are_read_to_inspect_and_plan(store, there):
    store.requests.clear()
    run(store, "inspect", there)
    run(store, "plan", there, "--hardware", "B200")
    run(store, "quantize", there, "s3://bucket/planned", "--scheme", "nvfp4a16", "--dry-run")
    spans = [span for method, key, span in store.requests if method == "GET" and key.endswith(".safetensors")]
    assert spans
    assert all(span is not None and span[1] <= 64 << 10 for span in spans)
    assert not store.keys("planned")


def test_connections_that_drop_and_servers_that_are_busy(store, there, local):
    store.faults.extend(["drop", "busy", None] * 8)
    quantized(store, "shaken", there)
    assert not store.faults
    assert store.get("shaken") == local


def test_a_connection_that_always_drops(store, there):
    store.faults.extend(["drop"] * 1000)
    said = quantized(store, "cut", there, code=1).stderr
    assert "no answer after 6 tries" in said
    assert "network" in said
    store.faults.clear()
    assert not store.keys("cut")


@pytest.mark.parametrize("after", [2, 4, 7])
def test_killed_in_the_middle_of_an_upload(store, there, local, after):
    """The ``after``-th file that is sent never ends; the process is killed; the job goes on."""
    name = f"killed-{after}"
    line = ("quantize", there, f"s3://bucket/{name}", "--scheme", "nvfp4a16", "--shard-size", SHARD, "--threads", "1")
    store.stalled.clear()
    store.release.clear()
    process = subprocess.Popen(command(*line), env=store.environment, stderr=subprocess.PIPE, text=True)
    sent = 0
    while not store.stalled.is_set():
        sent = len([key for key in store.keys(name) if not key.startswith(".halve/")])
        if sent >= after and not store.faults:
            store.faults.extend(["stall"] * 100)
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    process.kill()
    process.communicate()
    store.faults.clear()
    for key, content in store.get(name).items():
        if not key.startswith(".halve/"):
            assert content == local[key], "a file was seen before it was whole"
    store.release.set()
    time.sleep(0.2)  # what stalled ends, or fails, where nobody listens
    store.requests.clear()
    quantized(store, name, there, "--resume")
    assert store.get(name) == local
    again = {key for method, key, _ in store.requests if method == "PUT" and "/model-" in key and ".halve" not in key}
    assert len(again) < sum(key.endswith(".safetensors") for key in local)


def test_large_files_go_in_parts_and_are_seen_at_once(store, tmp_path):
    """Files of 20 MB: multipart uploads."""
    import numpy as np
    from safetensors.numpy import save_file

    weights = llama.weights()
    rng = np.random.default_rng(0)
    weights["model.embed_tokens.weight"] = rng.standard_normal((80_000, 128), np.float32).astype(np.float16)
    source = llama.write(tmp_path / "large")
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    halve.quantize(source, tmp_path / "local", "fp8_dynamic")
    store.requests.clear()
    store.faults.extend([None, None, "drop", "busy"])
    run(store, "quantize", store.put(source, "large"), "s3://bucket/large-out", "--scheme", "fp8_dynamic")
    assert store.get("large-out") == contents(tmp_path / "local")
    parts = [1 for method, key, _ in store.requests if method == "PUT" and key.endswith("model.safetensors")]
    assert len(parts) >= 3
    assert not store.uploads


def test_gguf_is_read_by_ranges(store, source, tmp_path):
    halve.quantize(source, tmp_path / "gguf", "int8_g32", layout="gguf")
    (file,) = (tmp_path / "gguf").glob("*.gguf")
    there = f"{store.put(tmp_path / 'gguf', 'gguf')}/{file.name}"
    halve.quantize(file, tmp_path / "local", "nvfp4a16")
    store.requests.clear()
    run(store, "quantize", there, "s3://bucket/from-gguf", "--scheme", "nvfp4a16")
    assert store.get("from-gguf") == contents(tmp_path / "local")
    assert all(span is not None for method, key, span in store.requests if method == "GET" and key.endswith(".gguf"))


def test_a_bucket_that_is_not_there(store, there):
    said = quantized(store, "x", "s3://nowhere/model", code=1).stderr
    assert "no such file or folder" in said
    line = ("quantize", there, "s3://nowhere/out", "--scheme", "nvfp4a16")
    assert "bucket" in run(store, *line, code=1).stderr


def test_a_machine_without_credentials(store, there):
    environment = {k: v for k, v in store.environment.items() if "AWS_ACCESS" not in k and "AWS_SECRET" not in k}
    environment |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent"}
    done = subprocess.run(command("inspect", there), capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 1
    assert "credentials" in done.stderr.lower()
    assert "Traceback" not in done.stderr
