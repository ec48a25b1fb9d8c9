"""Checkpoints behind URLs: read by ranges, with patience, and the same bytes as from a path of this machine."""

import json
import os
import pickle
import re
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest

import halve
from halve.checkpoint import remote, url
from halve.checkpoint.base import read_array
from halve.checkpoint.place import local, open_ranges, place, stamp
from halve.checkpoint.source import open_checkpoint
from halve.checkpoint.spool import Spool
from halve.checkpoint.url import Url
from halve.errors import CheckpointError, LimitError, UnsupportedError
from halve.pipeline.inspect import inspect
from halve.pipeline.quantize import planned
from halve.plan.subject import subject
from tiny import llama

pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'halve[storage]'")

from tiny.flaky import Flaky, upload
from unit.fake_hub import REPOSITORY, fake_hub


@pytest.fixture(autouse=True)
def _sound(monkeypatch):
    monkeypatch.setattr(url, "FIRST_WAIT", 0.001)
    Flaky.reset()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return llama.write(tmp_path_factory.mktemp("remote") / "source", shards=3)


@pytest.fixture
def gguf_source(tmp_path):
    folder = llama.write(tmp_path / "source")
    (folder / "tokenizer.json").unlink()  # GGUF has no name for how it splits
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("spec", ["model", "/tmp/model", "org/name", "C:model"])
def test_what_has_no_mark_is_a_path(spec):
    assert str(local(place(spec), "it")) == spec


def test_file_urls_are_paths(tmp_path):
    assert place(f"file://{tmp_path}/a%20b") == tmp_path / "a b"


def test_a_url_answers_as_a_path_does():
    found = place("memory://bucket/folder/model.tar.gguf/")
    assert str(found) == "memory://bucket/folder/model.tar.gguf"
    assert (found.name, found.suffix) == ("model.tar.gguf", ".gguf")
    assert str(found.parent) == "memory://bucket/folder"
    assert [str(parent) for parent in found.parents] == ["memory://bucket/folder", "memory://bucket"]
    assert str(found.with_name("a")) == "memory://bucket/folder/a"
    assert str(found.with_suffix("")) == "memory://bucket/folder/model.tar"
    assert str(found / "x") == f"{found}/x"


def test_files_and_folders(source):
    folder = place(upload(source, "flaky://bucket/model"))
    assert folder.is_dir()
    assert folder.exists()
    assert not folder.is_file()
    assert {path.name for path in folder.iterdir()} == set(contents(source))
    config = folder / "config.json"
    assert config.is_file()
    assert not config.is_dir()
    assert config.stat().st_size == (source / "config.json").stat().st_size
    assert not (folder / "nothing").exists()
    assert config.resolve(strict=True) == config
    with pytest.raises(FileNotFoundError):
        (folder / "nothing").resolve(strict=True)


def test_a_folder_in_a_folder_of_the_same_name():
    Flaky().pipe_file("/bucket/model/model/config.json", b"{}")
    assert [str(path) for path in place("flaky://bucket/model").iterdir()] == ["flaky://bucket/model/model"]


def test_the_stamp_tells_contents_apart(source):
    before = stamp(place(upload(source, "flaky://bucket/model")) / "config.json")
    assert before == stamp(place("flaky://bucket/model/config.json"))
    assert before != stamp(place(upload(source, "flaky://bucket/model")) / "config.json")


def test_the_bytes_are_those_of_a_local_source(source, tmp_path):
    halve.quantize(source, tmp_path / "local", "nvfp4a16")
    halve.quantize(upload(source, "flaky://bucket/source"), tmp_path / "remote", "nvfp4a16")
    assert contents(tmp_path / "remote") == contents(tmp_path / "local")


def test_of_a_gguf_file_too(gguf_source, tmp_path):
    halve.quantize(gguf_source, tmp_path / "made", "int8_g32", layout="gguf")
    (file,) = (tmp_path / "made").glob("*.gguf")
    there = f"{upload(tmp_path / 'made', 'flaky://bucket/made')}/{file.name}"
    assert inspect(there).layout == "gguf"
    halve.quantize(file, tmp_path / "local", "nvfp4a16")
    halve.quantize(there, tmp_path / "remote", "nvfp4a16")
    assert contents(tmp_path / "remote") == contents(tmp_path / "local")


def test_verify_and_convert(source, tmp_path):
    halve.quantize(source, tmp_path / "out", "mxfp4a16")
    quantized = upload(tmp_path / "out", "flaky://bucket/out")
    result = halve.verify(quantized, against=upload(source, "flaky://bucket/source"))
    assert result.ok
    assert result.hashed
    assert result.losses
    halve.convert(tmp_path / "out", tmp_path / "local", "dense")
    halve.convert(quantized, tmp_path / "remote", "dense")
    assert contents(tmp_path / "remote") == contents(tmp_path / "local")


def test_damage_is_found(source, tmp_path):
    halve.quantize(source, tmp_path / "out", "mxfp4a16")
    quantized = upload(tmp_path / "out", "flaky://bucket/out")
    weights = Flaky.store["/bucket/out/model.safetensors"]
    weights.seek(-1, 2)
    weights.write(bytes([weights.getvalue()[-1] ^ 1]))
    assert [problem.what for problem in halve.verify(quantized).problems if "tensor has been changed" in problem.what]


def test_only_headers_are_read_to_inspect_and_plan(source, monkeypatch):
    monkeypatch.setattr(remote, "HEAD", 4096)
    remote_source = upload(source, "flaky://bucket/source")
    inspect(remote_source)
    planned(remote_source, "nvfp4a16")
    assert subject(remote_source).stored == subject(source).stored
    weights = [(begin, end) for path, begin, end in Flaky.requests if path.endswith(".safetensors")]
    assert weights
    assert all(end <= 4096 for _, end in weights)


def test_a_config_alone_is_enough_to_plan(source):
    Flaky().pipe_file("/bucket/config.json", (source / "config.json").read_bytes())
    assert subject("flaky://bucket/config.json").shape.layers == subject(source / "config.json").shape.layers
    assert subject("flaky://bucket").shape.name == "bucket"


def test_hub_files_are_read_by_ranges(source, tmp_path):
    """hf:// against a hub on loopback; a process of its own, for the library reads its endpoint once."""
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: pip install 'halve[hub]'")
    single = llama.write(tmp_path / "tiny-llama")
    halve.quantize(single, tmp_path / "local", "nvfp4a16")
    with fake_hub(repositories={REPOSITORY: contents(single)}) as hub:
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
        line = [sys.executable, "-m", "halve", "quantize", f"hf://{REPOSITORY}", str(tmp_path / "out")]
        done = subprocess.run([*line, "--scheme", "nvfp4a16"], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        asked = [span for _, path, span in hub.log if path.endswith("model.safetensors")]
    assert contents(tmp_path / "out") == contents(tmp_path / "local")
    bounds = [re.fullmatch(r"bytes=(\d+)-(\d+)", span) for span in asked]
    size = (single / "model.safetensors").stat().st_size
    assert sum(int(found[2]) + 1 - int(found[1]) for found in bounds) <= size + remote.HEAD
    assert not list((tmp_path / "home").rglob("*.safetensors"))


def test_large_ranges_are_cut(source, monkeypatch):
    monkeypatch.setattr(remote, "PART", 1000)
    monkeypatch.setattr(remote, "HEAD", 0)
    file = next(source.glob("*.safetensors"))
    with open_ranges(place(upload(source, "flaky://b")) / file.name) as opened:
        assert opened.read(3, opened.size - 3) == file.read_bytes()[3:]
    assert max(end - begin for _, begin, end in Flaky.requests) == 1000


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), TimeoutError(), OSError(16, "SlowDown")])
def test_what_passes_is_asked_again(source, tmp_path, error):
    halve.quantize(source, tmp_path / "local", "fp8_dynamic")
    remote_source = upload(source, "flaky://bucket/source")
    Flaky.failures.extend([error] * (url.TRIES - 1))
    Flaky.truncate = 3
    halve.quantize(remote_source, tmp_path / "remote", "fp8_dynamic")
    assert not Flaky.failures
    assert not Flaky.truncate
    assert contents(tmp_path / "remote") == contents(tmp_path / "local")


def test_what_is_read_twice_is_fetched_once(source, tmp_path):
    """NVFP4 looks for the largest number first."""
    remote_source = upload(source, "flaky://bucket/source")
    halve.quantize(remote_source, tmp_path / "remote", "nvfp4a16")
    weights = [request for request in Flaky.requests if request[0].endswith(".safetensors") and request[1]]
    assert weights
    assert len(weights) == len(set(weights))
    assert len(remote._spool._free) == remote.KEPT // remote.PART


@pytest.mark.parametrize("slots", [0, 3])
def test_a_small_spool_costs_traffic_and_no_more(source, tmp_path, slots, monkeypatch):
    monkeypatch.setattr(remote, "_spool", Spool(slots, remote.PART))
    halve.quantize(source, tmp_path / "local", "nvfp4a16")
    halve.quantize(upload(source, "flaky://bucket/source"), tmp_path / "remote", "nvfp4a16")
    assert contents(tmp_path / "remote") == contents(tmp_path / "local")
    assert len(remote._spool._free) == slots


def test_a_spool_on_a_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    spool = Spool(2, 10)
    monkeypatch.setattr(os, "pwrite", full)
    assert spool.put(b"0123456789") is None
    monkeypatch.undo()
    slot = spool.put(b"0123456789")
    buffer = bytearray(10)
    assert spool.read_into(slot, memoryview(buffer))
    assert buffer == b"0123456789"
    assert spool.put(b"x") is not None
    assert spool.put(b"y") is None


def test_what_is_dropped_is_fetched_again(monkeypatch):
    monkeypatch.setattr(remote, "HEAD", 0)
    Flaky().pipe_file("/b/file", bytes(range(100)))
    with open_ranges(place("flaky://b/file")) as opened:
        for _ in range(2):
            assert opened.read(10, 20) == bytes(range(10, 30))
        assert len(Flaky.requests) == 1
        opened.drop(10, 29)
        opened.read(10, 20)
        assert len(Flaky.requests) == 1
        opened.drop(0, 40)
        assert opened.read(10, 20) == bytes(range(10, 30))
        assert len(Flaky.requests) == 2


def test_a_url_travels(source):
    assert pickle.loads(pickle.dumps(place("memory://bucket/model"))) == place("memory://bucket/model")


def test_mistakes_of_our_own_are_told_as_they_are():
    with pytest.raises(TypeError):
        url.persistently(Url("flaky://b/f"), lambda: len(3))


def test_only_what_failed_is_fetched_again(monkeypatch):
    monkeypatch.setattr(remote, "HEAD", 0)
    monkeypatch.setattr(remote, "PART", 10)
    Flaky().pipe_file("/b/file", bytes(40))
    with open_ranges(place("flaky://b/file")) as opened:
        Flaky.failures.append(ConnectionResetError())
        assert opened.read(0, 40) == bytes(40)
    assert sorted(begin for _, begin, _ in Flaky.requests) == [0, 0, 10, 20, 30]


def test_what_lasts_is_an_error_in_the_end(source):
    remote_source = upload(source, "flaky://bucket/source")
    Flaky.failures.extend([ConnectionResetError("connection reset")] * url.TRIES)
    with pytest.raises(CheckpointError, match=r"no answer after 6 tries: connection reset") as raised:
        inspect(remote_source)
    assert "network" in raised.value.hint


@pytest.mark.parametrize("error", [PermissionError("denied"), type("Forbidden", (Exception,), {"status": 403})()])
def test_what_is_refused_is_not_asked_again(source, error):
    remote_source = upload(source, "flaky://bucket/source")
    Flaky.failures.append(error)
    with pytest.raises(CheckpointError, match=r"flaky://bucket/source: ") as raised:
        inspect(remote_source)
    assert "credentials" in raised.value.hint


def test_a_status_says_whether_it_may_pass():
    busy = type("Busy", (Exception,), {"code": 503})
    found = []

    def answer():
        found.append(1)
        if len(found) < 3:
            raise busy
        return "there"

    assert url.persistently(Url("flaky://b/f"), answer) == "there"


def test_what_is_not_there():
    for spec in ("flaky://bucket/nothing", "flaky://bucket/nothing.gguf"):
        with pytest.raises(CheckpointError, match="no such file or folder"):
            open_checkpoint(spec)


def test_a_file_that_has_shrunk(source):
    remote_source = upload(source, "flaky://bucket/source")
    with closing(open_checkpoint(remote_source)) as checkpoint:
        for file in checkpoint.files:
            Flaky().rm(str(file).removeprefix("flaky:/"))
        with pytest.raises(CheckpointError, match="has been removed"):
            read_array(checkpoint, "model.layers.1.mlp.down_proj.weight")


def test_a_truncated_file(source):
    remote_source = upload(source, "flaky://bucket/source")
    weights = Flaky.store["/bucket/source/model-00002-of-00003.safetensors"]
    weights.truncate(weights.getbuffer().nbytes - 100)
    with pytest.raises(CheckpointError, match="lie outside the file"):
        open_checkpoint(remote_source)


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("nonsense://bucket/model", "no protocol that fsspec knows"),
        ("simplecache::flaky://bucket/model", "chains of URLs"),
    ],
)
def test_urls_that_cannot_be_read(spec, what):
    with pytest.raises(UnsupportedError, match=what):
        open_checkpoint(spec)


@pytest.mark.parametrize(
    ("protocol", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("hf", "huggingface_hub"), ("s3a", "s3fs")]
)
def test_a_missing_driver_is_named(protocol, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    url._driver.cache_clear()
    with pytest.raises(UnsupportedError, match=rf"needs the package {package}") as raised:
        open_checkpoint(f"{protocol}://bucket/model")
    assert raised.value.hint == f"pip install {package}"


def test_without_fsspec_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    url._driver.cache_clear()
    with pytest.raises(UnsupportedError, match="fsspec") as raised:
        open_checkpoint("s3://bucket/model")
    assert raised.value.hint == "pip install 'halve[storage]'"
    url._driver.cache_clear()


def test_an_onnx_model_must_be_here():
    Flaky().pipe_file("/bucket/model.onnx", b"")
    with pytest.raises(UnsupportedError, match="must be on this machine"):
        open_checkpoint("flaky://bucket/model.onnx")


def test_a_pickle_is_refused():
    Flaky().pipe_file("/bucket/model.ckpt", b"")
    with pytest.raises(CheckpointError, match="refused: it is a pickle"):
        open_checkpoint("flaky://bucket/model.ckpt")


def test_what_is_on_its_way_is_in_the_plan_of_memory(source):
    remote_source = upload(source, "flaky://bucket/source")
    with pytest.raises(LimitError) as here:
        planned(source, "nvfp4a16", memory=1 << 20)
    with pytest.raises(LimitError) as there:
        planned(remote_source, "nvfp4a16", memory=1 << 20)
    least = [int(e.value.hint.split()[1].removesuffix("MiB,")) for e in (here, there)]
    assert least[1] - least[0] >= remote.HELD >> 20


def test_on_the_command_line(source, tmp_path):
    line = [sys.executable, "-m", "halve", "inspect", "memory://nothing", "--json"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 1
    assert "memory://nothing: no such file or folder" in done.stderr
    line = [sys.executable, "-m", "halve", "inspect", f"file://{source}", "--json"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert json.loads(done.stdout)["path"] == str(source)


def test_rows_are_where_they_belong(source):
    with closing(open_checkpoint(upload(source, "flaky://b/s"))) as there, closing(open_checkpoint(source)) as here:
        for name in here.tensors:
            np.testing.assert_array_equal(read_array(there, name).view(np.uint8), read_array(here, name).view(np.uint8))
