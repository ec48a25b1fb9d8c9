"""Jobs whose OUT is behind a URL: the bytes of a local job, files seen only when they are whole, and resume."""

import itertools
import os

import pytest

import halve
from halve.checkpoint import upload as uploading
from halve.checkpoint import url
from halve.errors import RESUMABLE, CheckpointError, LimitError, OutputError, UnsupportedError
from halve.pipeline import store
from halve.pipeline.calibrate import calibrate
from halve.pipeline.quantize import planned
from tiny import llama, speaker

pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'halve[storage]'")
from tiny.flaky import Flaky, download, upload

OUT = "flaky://bucket/out"
SHARD = 20_000  # bytes: several files
LAYOUTS = {
    "compressed-tensors": "nvfp4a16",
    "gguf": "int8_g32",
    "gptq": "w4a16",
    "torch": "mxfp6_e2m3a16",
    "onnx-qdq": "w8a16",
}


@pytest.fixture(autouse=True)
def _sound(monkeypatch):
    monkeypatch.setattr(url, "FIRST_WAIT", 0.001)
    Flaky.reset()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = llama.write(tmp_path_factory.mktemp("store") / "source")
    (folder / "tokenizer.json").unlink()  # GGUF has no name for how it splits
    return folder


@pytest.fixture(scope="module")
def local(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "out"
    halve.quantize(source, out, "nvfp4a16", shard_bytes=SHARD)
    return contents(out)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def seen():
    """Everything under OUT."""
    return sorted(path.removeprefix("/bucket/out/") for path in Flaky.store)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_bytes_are_those_of_a_local_job(source, tmp_path, layout):
    scheme = LAYOUTS[layout]
    halve.quantize(source, tmp_path / "out", scheme, layout=layout, shard_bytes=SHARD)
    result = halve.quantize(source, OUT, scheme, layout=layout, shard_bytes=SHARD)
    assert str(result.path) == OUT
    assert result.bytes == sum(
        len(content) for name, content in download(OUT).items() if name in {f.name for f in weights(tmp_path / "out")}
    )
    assert download(OUT) == contents(tmp_path / "out")
    if layout not in ("torch", "onnx-qdq"):
        assert halve.verify(OUT, against=source).ok


def weights(folder):
    return [path for path in folder.iterdir() if path.suffix in (".safetensors", ".gguf", ".pt", ".onnx", ".data")]


def test_convert(source, tmp_path):
    halve.quantize(source, tmp_path / "nvfp4", "nvfp4a16")
    for layout in ("modelopt", "dense"):
        Flaky.reset()
        halve.convert(tmp_path / "nvfp4", tmp_path / layout, layout)
        halve.convert(tmp_path / "nvfp4", OUT, layout)
        assert download(OUT) == contents(tmp_path / layout)


def test_statistics_and_transforms(tmp_path):
    source = speaker.write(tmp_path / "source", num_hidden_layers=2)
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 50)
    calibrate(source, tmp_path / "stats", texts=[str(tmp_path / "text.txt")], windows=2, window=32)
    options = {"stats": tmp_path / "stats", "algorithm": "gptq", "kv": "fp8", "shard_bytes": SHARD}
    halve.quantize(source, tmp_path / "out", "w4a16", **options)
    halve.quantize(source, OUT, "w4a16", **options)
    assert download(OUT) == contents(tmp_path / "out")
    Flaky.reset()
    with pytest.raises(UnsupportedError, match="comparing candidates needs an OUT on this machine"):
        halve.quantize(source, OUT, "w4a16", **options | {"algorithm": None})
    assert not seen()


def test_calibrate_from_a_store(tmp_path):
    source = speaker.write(tmp_path / "source", num_hidden_layers=2)
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 50)
    options = {"texts": [str(tmp_path / "text.txt")], "windows": 2, "window": 32}
    calibrate(source, tmp_path / "here", **options)
    calibrate(upload(source, "flaky://bucket/source"), tmp_path / "there", **options)
    assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes()


def test_parts_of_an_upload(source, local, monkeypatch):
    monkeypatch.setattr(uploading, "PART", 1000)
    halve.quantize(source, OUT, "nvfp4a16", shard_bytes=SHARD)
    assert download(OUT) == local


def interrupted(source, after, **options):
    events = itertools.count(1)

    def stop(_):
        if next(events) >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised:
        halve.quantize(source, OUT, "nvfp4a16", progress=stop, threads=1, shard_bytes=SHARD, **options)
    return raised.value


@pytest.mark.parametrize("after", [2, 6, 9, 12, 15])
def test_an_interrupted_job_goes_on(source, local, after, monkeypatch):
    error = interrupted(source, after)
    kept = [name for name in seen() if not name.startswith(".halve/")]
    assert (RESUMABLE in getattr(error, "__notes__", ())) == bool(kept)
    assert seen() if kept else not seen()
    sent = []
    put = url.Url.put
    monkeypatch.setattr(url.Url, "put", lambda self, content: (sent.append(self.name), put(self, content)))
    halve.quantize(source, OUT, "nvfp4a16", shard_bytes=SHARD, resume=True)
    assert download(OUT) == local
    assert seen() == sorted(local)
    assert not set(sent) & set(kept)


def test_what_is_seen_is_whole(source, local):
    interrupted(source, 12)
    for name, content in download(OUT).items():
        assert content == local[name]


def test_a_file_that_was_sent_and_not_noted_is_sent_again(source, local, monkeypatch):
    """As after a kill between the two."""
    calls = itertools.count()

    def die(*_):
        if next(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(store.StoreWorkspace, "note", die)
    with pytest.raises(KeyboardInterrupt):
        halve.quantize(source, OUT, "nvfp4a16", shard_bytes=SHARD, threads=1)
    monkeypatch.undo()
    halve.quantize(source, OUT, "nvfp4a16", shard_bytes=SHARD, resume=True)
    assert download(OUT) == local


def test_a_file_that_has_been_lost_is_made_again(source, local):
    interrupted(source, 15)
    lost = [path for path in Flaky.store if path.endswith(".safetensors")]
    del Flaky.store[lost[0]]
    halve.quantize(source, OUT, "nvfp4a16", shard_bytes=SHARD, resume=True)
    assert download(OUT) == local


def test_a_damaged_note_costs_work_and_no_more(source, local):
    interrupted(source, 15)
    for path in list(Flaky.store):
        if "/finished/" in path:
            Flaky().pipe_file(path, b'{"tensors": {}\n')
    halve.quantize(source, OUT, "nvfp4a16", shard_bytes=SHARD, resume=True)
    assert download(OUT) == local


def test_another_job_is_refused(source):
    interrupted(source, 15)
    with pytest.raises(OutputError, match="another scheme"):
        halve.quantize(source, OUT, "mxfp4a16", shard_bytes=SHARD, resume=True)
    with pytest.raises(OutputError, match="not empty") as raised:
        halve.quantize(source, OUT, "nvfp4a16", shard_bytes=SHARD)
    assert "--resume" in raised.value.hint


def test_what_is_finished_stays(source):
    halve.quantize(source, OUT, "nvfp4a16")
    again = halve.quantize(source, OUT, "nvfp4a16", resume=True)
    assert "finished before" in again.warnings[0]
    with pytest.raises(OutputError, match="not empty"):
        halve.quantize(source, OUT, "nvfp4a16")


def test_uploads_that_fail_are_tried_again(source, local):
    Flaky.write_failures.extend([ConnectionResetError("reset"), TimeoutError(), OSError(16, "SlowDown")])
    halve.quantize(source, OUT, "nvfp4a16", shard_bytes=SHARD)
    assert not Flaky.write_failures
    assert download(OUT) == local


def test_a_store_that_is_gone_is_an_error_and_resumable(source, local):
    Flaky.write_failures.extend([None] * 7 + [ConnectionResetError("reset")] * url.TRIES)
    with pytest.raises(OutputError, match="no answer after 6 tries") as raised:
        halve.quantize(source, OUT, "nvfp4a16", shard_bytes=SHARD, threads=1)
    assert RESUMABLE in raised.value.__notes__
    Flaky.write_failures.clear()
    halve.quantize(source, OUT, "nvfp4a16", shard_bytes=SHARD, resume=True)
    assert download(OUT) == local


def test_a_store_that_refuses(source):
    Flaky.write_failures.append(PermissionError("Access Denied"))
    with pytest.raises(OutputError, match="Access Denied") as raised:
        halve.quantize(source, OUT, "nvfp4a16")
    assert "credentials" in raised.value.hint
    assert not seen()


def test_a_job_that_makes_no_sense_leaves_nothing(source, tmp_path):
    weights = llama.weights()
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    damaged = llama.write(tmp_path / "damaged", weights)
    Flaky().pipe_file("/bucket/other", b"of somebody else")
    with pytest.raises(halve.errors.FormatError):
        halve.quantize(damaged, OUT, "nvfp4a16", shard_bytes=SHARD)
    assert list(Flaky.store) == ["/bucket/other"]


def test_no_room_to_prepare_files(source, monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OutputError, match=r"cannot be prepared in .*No space left") as raised:
        halve.quantize(source, OUT, "nvfp4a16")
    assert "TMPDIR" in raised.value.hint
    assert not seen()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"calibrate": ["builtin"]}, "--calibrate needs an OUT on this machine"),
        ({"cluster": "auto"}, "--cluster needs an OUT on this machine"),
    ],
)
def test_what_needs_a_disk_says_so(source, options, what):
    with pytest.raises(UnsupportedError, match=what):
        halve.quantize(source, OUT, "nvfp4a16", **options)
    assert not seen()


def test_what_is_sent_is_in_the_plan_of_memory(source):
    least = []
    for out in (None, OUT):
        with pytest.raises(LimitError) as raised:
            planned(source, "nvfp4a16", memory=1 << 20, out=out)
        least.append(int(raised.value.hint.split()[1].removesuffix("MiB,")))
    assert least[1] - least[0] >= uploading.HELD >> 20


def test_a_name_of_a_file_is_no_folder(source):
    with pytest.raises(OutputError, match="is to be a folder"):
        halve.quantize(source, "flaky://bucket/out.gguf", "int8_g32", layout="gguf")


def test_reading_does_not_depend_on_what_was_there_before(source):
    with pytest.raises(CheckpointError):
        halve.verify(OUT)
    halve.quantize(source, OUT, "mxfp4a16")
    assert halve.verify(OUT).ok
