"""Repositories of the Hugging Face hub: names, the local cache, and downloads from a hub on loopback.

``huggingface_hub`` comes with tokenizers, a core dependency. It reads its environment when it is imported, so every
download runs in a process of its own.
"""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import halve
from halve.checkpoint import hub as hub_module
from halve.checkpoint.hf import SINGLE, HfCheckpoint
from halve.checkpoint.hub import cache_folder, cached, parse, resolve
from halve.errors import CheckpointError
from tiny import llama
from unit.fake_hub import COMMIT, REPOSITORY, fake_hub, store

PROGRAM = """
import json, sys
from halve.checkpoint.source import open_checkpoint
from halve.errors import HalveError
try:
    checkpoint = open_checkpoint(sys.argv[1])
except HalveError as error:
    answer = {"error": str(error), "hint": error.hint}
else:
    files = sorted(checkpoint.auxiliary())
    answer = {"path": str(checkpoint.path), "tensors": sorted(checkpoint.tensors), "files": files}
print(json.dumps(answer))
"""


@pytest.fixture
def files(tmp_path):
    """The content of a repository, with what must not be downloaded."""
    folder = llama.write(tmp_path / "model", shards=3)
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    extra = ("README.md", "pytorch_model.bin", "model.gguf", "run.py", "original/model.safetensors", "onnx/config.json")
    return content | dict.fromkeys(extra, b"unwanted") | {"consolidated.safetensors": b"unwanted", "LICENSE": b"free"}


WANTED = ["LICENSE", "config.json", "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"]
WANTED += ["model-00003-of-00003.safetensors", "model.safetensors.index.json", "tokenizer.json"]


@dataclass
class Client:
    """Opens checkpoints in processes of their own, which share one cache."""

    home: Path
    endpoint: str

    def __call__(self, spec=REPOSITORY, **env):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, spec],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
            cwd=self.home,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))},
                "PYTHONPATH": os.pathsep.join(sys.path),
                "HF_HOME": str(self.home),
                "HF_ENDPOINT": self.endpoint,
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "NO_PROXY": "*",
                **env,
            },
        )
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout) | {"stderr": done.stderr}


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


# Names


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("org/name", ("org/name", None)),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", ("HuggingFaceTB/SmolLM2-135M-Instruct", None)),
        ("org/name@main", ("org/name", "main")),
        ("org/name@refs/pr/7", ("org/name", "refs/pr/7")),
        ("org/name.v1.5@v2.0-rc+1", ("org/name.v1.5", "v2.0-rc+1")),
        *(
            (spec, None)
            for spec in ("gpt2", "a/b/c", "/a/b", "./a/b", "../b", "a/..", "a/b@", "a/b@../x", "a/b@-x", "~/b")
        ),
        *(
            (spec, None)
            for spec in ("", "a/", "/", "a/b c", "a--b/c", "a/b\n", "a/b\0", "å/b", "https://h/a/b", "a/b@x@y")
        ),
    ],
)
def test_names_of_repositories(spec, found):
    assert parse(spec) == found


# The cache


@pytest.mark.parametrize(
    ("env", "folder"),
    [
        ({"HF_HUB_CACHE": "{}/a", "HF_HOME": "{}/b"}, "a"),
        ({"HUGGINGFACE_HUB_CACHE": "{}/a", "HF_HOME": "{}/b"}, "a"),
        ({"HF_HOME": "{}/b", "XDG_CACHE_HOME": "{}/c"}, "b/hub"),
        ({"HF_HOME": "$HOME/b"}, "b/hub"),
        ({"XDG_CACHE_HOME": "{}/c"}, "c/huggingface/hub"),
        ({}, ".cache/huggingface/hub"),
    ],
)
def test_the_cache_is_where_the_hubs_library_has_it(tmp_path, monkeypatch, env, folder):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in env.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    assert cache_folder() == tmp_path / folder
    theirs = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    assert subprocess.run([sys.executable, "-c", theirs], capture_output=True, text=True, check=True).stdout == (
        f"{tmp_path / folder}\n"
    )


@pytest.mark.parametrize("revision", ["main", "v2", "refs/pr/1"])
def test_the_cache_is_read_without_the_package(tmp_path, monkeypatch, revision):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    snapshot = store(tmp_path, revision)
    assert resolve(REPOSITORY, revision) == resolve(REPOSITORY, COMMIT) == snapshot
    assert cached(REPOSITORY) == (snapshot if revision == "main" else None)
    assert cached(REPOSITORY, "other") is None
    assert cached(REPOSITORY, "f" * 40) is None
    assert cached("org/other") is None


@pytest.mark.parametrize("ref", [b"../../../elsewhere", b"", b"\xff\xfe", b"main", b"." * 40])
def test_a_damaged_cache_is_no_cache(tmp_path, monkeypatch, ref):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = store(tmp_path)
    (snapshot.parent.parent / "refs" / "main").write_bytes(ref)
    assert cached(REPOSITORY) is None


def test_without_the_package_and_without_a_copy(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="the package huggingface_hub, which downloads, is missing") as raised:
        resolve(REPOSITORY)
    assert "halve[hub]" in raised.value.hint


# Downloads


def test_a_repository_is_downloaded_once(home, files):
    with fake_hub(repositories={REPOSITORY: files}) as hub:
        client = Client(home, hub.url)
        first = client()
        assert hub.downloads() == WANTED
        assert first["path"] == str(home / "hub" / "models--org--tiny-llama" / "snapshots" / COMMIT)
        assert first["tensors"] == sorted(llama.weights())
        assert first["files"] == ["LICENSE", "tokenizer.json"]
        assert "%" in first["stderr"]  # a progress bar
        hub.log.clear()
        assert client(REPOSITORY)["path"] == client(f"{REPOSITORY}@{COMMIT}")["path"] == first["path"]
        assert hub.log == []
        assert client(f"{REPOSITORY}@v2")["path"] == first["path"]
        assert hub.downloads() == []
    for offline in ({}, {"HF_HUB_OFFLINE": "1"}):
        assert client(**offline)["path"] == first["path"]


def test_the_downloaded_weights_are_whole(home, files):
    with fake_hub(repositories={REPOSITORY: files}) as hub:
        path = Client(home, hub.url)()["path"]
    checkpoint = HfCheckpoint(Path(path))
    for file in checkpoint.files:
        assert file.read_bytes() == files[file.name]
    checkpoint.close()


def test_a_broken_transfer_goes_on_where_it_broke(home, tmp_path):
    big = llama.weights() | {"big": np.random.default_rng(0).integers(0, 256, 12 << 20, np.uint8)}
    folder = llama.write(tmp_path / "model", big)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with fake_hub(repositories={REPOSITORY: files}, break_after={SINGLE: 11 << 20}) as hub:
        client = Client(home, hub.url)
        answer = client()
        if "error" in answer:  # huggingface_hub before 2 leaves it to the next run
            assert "run it again" in answer["hint"]
            answer = client()
    assert answer["tensors"] == sorted(big)
    assert (Path(answer["path"]) / SINGLE).read_bytes() == files[SINGLE]
    ranges = [range_ for method, path, range_ in hub.log if method == "GET" and path.endswith(SINGLE)]
    assert ranges == ["", f"bytes={10 << 20}-"]  # the library writes, and goes on, by 10 MiB


def test_a_download_that_was_cut_short_is_completed(home, files):
    name = "model-00002-of-00003.safetensors"
    with fake_hub(repositories={REPOSITORY: files}) as hub:
        client = Client(home, hub.url)
        lost = Path(client()["path"]) / name
        lost.resolve().unlink()
        lost.unlink()
        hub.log.clear()
        assert client()["tensors"] == sorted(llama.weights())
        assert hub.downloads() == [name]
        lost.resolve().unlink()
        lost.unlink()
    offline = client(HF_HUB_OFFLINE="1")
    assert REPOSITORY in offline["error"]
    assert "cache" in offline["hint"] + offline["error"]


def test_a_gated_repository(home, files):
    with fake_hub(repositories={REPOSITORY: files}, gated=True) as hub:
        answer = Client(home, hub.url)()
    assert answer["error"] == f"{REPOSITORY}: access is gated"
    assert f"{hub.url}/{REPOSITORY}" in answer["hint"]
    assert "HF_TOKEN" in answer["hint"]


def test_a_private_repository_and_its_token(home, files):
    with fake_hub(repositories={REPOSITORY: files}, token="hf_secret") as hub:
        client = Client(home, hub.url)
        for env in ({}, {"HF_TOKEN": "hf_wrong"}):
            answer = client(**env)
            assert "the hub refuses" in answer["error"]
            assert "HF_TOKEN" in answer["hint"]
            assert "hf_wrong" not in str(answer)
        assert client(HF_TOKEN="hf_secret")["tensors"] == sorted(llama.weights())


def test_a_repository_that_is_not_there(home):
    with fake_hub() as hub:
        answer = Client(home, hub.url)()
    assert answer["error"] == f"{REPOSITORY}: no such folder here and no such repository on the hub"
    assert "check the name" in answer["hint"]


def test_a_revision_that_is_not_there(home, files):
    with fake_hub(repositories={REPOSITORY: files}) as hub:
        answer = Client(home, hub.url)(f"{REPOSITORY}@v3")
    assert answer["error"] == f"{REPOSITORY}: no revision 'v3'"
    assert "branches" in answer["hint"]


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 30_000])
def test_a_repository_of_torch_files(home, tmp_path, shard_bytes):
    halve.quantize(llama.write(tmp_path / "model"), tmp_path / "torch", "fp16", layout="torch", shard_bytes=shard_bytes)
    files = {path.name: path.read_bytes() for path in (tmp_path / "torch").iterdir()}
    weights = sorted(name for name in files if name.startswith("pytorch_model"))
    assert (len(weights) > 1) == (shard_bytes < 1e6)
    files |= dict.fromkeys(("training_args.bin", "optimizer.bin", "rng_state.pth", "original/model.pt"), b"unwanted")
    with fake_hub(repositories={REPOSITORY: files}) as hub:
        client = Client(home, hub.url)
        answer = client()
        assert answer["tensors"] == sorted(llama.weights())
        assert set(weights) <= set(hub.downloads())
        assert not {name for name in hub.downloads() if files[name] == b"unwanted"}
        hub.log.clear()
        assert client()["path"] == answer["path"]
        assert hub.log == []  # whole: taken from the cache


def test_a_repository_of_other_files(home, files):
    few = {name: files[name] for name in ("config.json", "tokenizer.json", "model.gguf")}
    with fake_hub(repositories={REPOSITORY: few}) as hub:
        answer = Client(home, hub.url)()
        assert hub.downloads() == ["config.json", "tokenizer.json"]
    assert "no safetensors file" in answer["error"]
    assert "GGUF" in answer["hint"]


def test_offline_and_not_in_the_cache(home):
    answer = Client(home, "http://127.0.0.1:9")(HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE forbids" in answer["error"]
    assert "unset HF_HUB_OFFLINE" in answer["hint"]


def test_no_network(home):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        answer = Client(home, f"http://127.0.0.1:{unused.getsockname()[1]}")()
    assert "no such folder here, and it cannot be downloaded from http://127.0.0.1" in answer["error"]
    assert "network" in answer["hint"]


def test_a_full_disk_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    error = RuntimeError("transfer failed")
    error.__cause__ = OSError(28, "No space left on device")
    explained = hub_module._explained(error, REPOSITORY, None)
    assert "is full" in str(explained)
    assert "HF_HOME" in explained.hint
