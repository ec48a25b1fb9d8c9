"""A job that was interrupted goes on: the same bytes, and nothing done twice."""

import errno
import itertools
import os
import signal
import subprocess
import sys

import pytest

import halve
from halve.checkpoint.hf import HfCheckpoint
from halve.errors import RESUMABLE, OutputError
from halve.pipeline import journal, workspace
from halve.pipeline.calibrate import calibrate
from tiny import llama, speaker

SCHEMES = {  # layout -> a scheme that it holds
    "compressed-tensors": "nvfp4a16",
    "gguf": "int8_g32",
    "gptq": "w4a16",
    "torch": "mxfp6_e2m3a16",
    "onnx-qdq": "w8a16",
}


@pytest.fixture(autouse=True)
def _note_at_once(monkeypatch):
    monkeypatch.setattr(journal, "SECONDS", 0.0)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = llama.write(tmp_path_factory.mktemp("resume") / "source")
    (folder / "tokenizer.json").unlink()  # GGUF has no name for how it splits
    return folder


def contents(folder):
    """Every file by its name; the model card says how long nothing took."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def interrupted(source, out, scheme, after, **options):
    """Interrupt the job at its ``after``-th progress."""
    events = itertools.count(1)

    def stop(_):
        if next(events) >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised:
        halve.quantize(source, out, scheme, progress=stop, threads=1, **options)
    return raised.value


@pytest.mark.parametrize("after", [2, 9, 15])
@pytest.mark.parametrize("layout", SCHEMES)
def test_the_bytes_are_those_of_a_job_in_peace(source, tmp_path, layout, after):
    scheme = SCHEMES[layout]
    halve.quantize(source, tmp_path / "peace" / "out", scheme, layout=layout)
    error = interrupted(source, tmp_path / "out", scheme, after, layout=layout)
    assert RESUMABLE in error.__notes__
    result = halve.quantize(source, tmp_path / "out", scheme, layout=layout, resume=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "peace" / "out")
    assert halve.verify(tmp_path / "out", against=source).problems == ()
    assert len(result.losses) == len(result.plan.quantized)


def test_finished_tensors_are_not_read_again(source, tmp_path, monkeypatch):
    interrupted(source, tmp_path / "out", "w8a8", 15)
    read, seen = HfCheckpoint.read, []

    def spy(self, name, *arguments):
        seen.append(name)
        return read(self, name, *arguments)

    monkeypatch.setattr(HfCheckpoint, "read", spy)
    halve.quantize(source, tmp_path / "out", "w8a8", resume=True)
    everything = set(llama.weights())
    assert seen
    assert len(everything - set(seen)) >= 12


def test_nothing_to_resume_is_a_start(source, tmp_path):
    halve.quantize(source, tmp_path / "out", "w8a8", resume=True)
    assert halve.verify(tmp_path / "out", against=source).problems == ()


def test_a_finished_job_is_left_alone(source, tmp_path):
    halve.quantize(source, tmp_path / "out", "w8a8")
    before = contents(tmp_path / "out")
    again = halve.quantize(source, tmp_path / "out", "w8a8", resume=True)
    assert contents(tmp_path / "out") == before
    assert again.bytes == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert "finished before" in again.warnings[0]
    with pytest.raises(OutputError, match="a finished checkpoint with another scheme"):
        halve.quantize(source, tmp_path / "out", "fp8_dynamic", resume=True)


def test_without_resume_an_interrupted_job_is_in_the_way(source, tmp_path):
    interrupted(source, tmp_path / "out", "w8a8", 9)
    with pytest.raises(OutputError, match="is not empty") as raised:
        halve.quantize(source, tmp_path / "out", "w8a8")
    assert "--resume" in raised.value.hint


def test_another_job_is_refused_and_nothing_lost(source, tmp_path):
    interrupted(source, tmp_path / "out", "w8a8", 9)
    before = contents(tmp_path / "out" / ".halve")
    with pytest.raises(OutputError, match="an interrupted job with another scheme"):
        halve.quantize(source, tmp_path / "out", "fp8_dynamic", resume=True)
    with pytest.raises(OutputError, match="another ignore"):
        halve.quantize(source, tmp_path / "out", "w8a8", ignore=["lm_head"], resume=True)
    assert contents(tmp_path / "out" / ".halve") == before
    halve.quantize(source, tmp_path / "out", "w8a8", resume=True)


def test_a_changed_source_is_refused(tmp_path):
    source = llama.write(tmp_path / "source")
    interrupted(source, tmp_path / "out", "w8a8", 9)
    os.utime(source / "model.safetensors", ns=(0, 0))
    with pytest.raises(OutputError, match="another source"):
        halve.quantize(source, tmp_path / "out", "w8a8", resume=True)


def test_an_interrupt_before_anything_is_finished_leaves_nothing(source, tmp_path):
    assert not getattr(interrupted(source, tmp_path / "out", "w8a8", 1), "__notes__", ())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["cut", "garbage", "zeros", "gone"])
def test_a_damaged_journal_costs_work_and_no_more(source, tmp_path, damage):
    halve.quantize(source, tmp_path / "peace" / "out", "w8a8")
    interrupted(source, tmp_path / "out", "w8a8", 12)
    path = tmp_path / "out" / ".halve" / "journal"
    content = path.read_bytes()
    half = len(content) // 2
    match damage:
        case "cut":
            path.write_bytes(content[:half])
        case "garbage":
            path.write_bytes(content[:half] + b'\n{"tensors": 3}\n[[[[\n' + content[half:])
        case "zeros":
            path.write_bytes(content[:half] + bytes(len(content) - half))
        case "gone":
            path.unlink()
    halve.quantize(source, tmp_path / "out", "w8a8", resume=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "peace" / "out")


def test_a_damaged_note_of_the_job_is_an_error(source, tmp_path):
    interrupted(source, tmp_path / "out", "w8a8", 12)
    (tmp_path / "out" / ".halve" / "job.json").write_text("[" * 100_000)
    with pytest.raises(OutputError, match="is damaged"):
        halve.quantize(source, tmp_path / "out", "w8a8", resume=True)


@pytest.mark.parametrize("after", [1, 5, 20, 33])
def test_a_disk_that_fills_up_on_the_way(source, tmp_path, monkeypatch, after):
    halve.quantize(source, tmp_path / "peace" / "out", "nvfp4a16")
    written, pwrite = itertools.count(), os.pwrite

    def full(fd, data, offset):
        if next(written) >= after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(fd, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OutputError, match="No space left") as raised:
            halve.quantize(source, tmp_path / "out", "nvfp4a16")
    assert "free some space" in raised.value.hint
    halve.quantize(source, tmp_path / "out", "nvfp4a16", resume=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "peace" / "out")


KILLED = """
import os, signal, sys
import halve
from halve.pipeline import journal
journal.SECONDS = 0.0
left = int(sys.argv[3])
def progress(_):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
halve.quantize(sys.argv[1], sys.argv[2], "nvfp4a16", progress=progress, resume=True)
"""


def test_killed_again_and_again(source, tmp_path):
    halve.quantize(source, tmp_path / "peace" / "out", "nvfp4a16")
    for life in range(1, 20):
        done = subprocess.run([sys.executable, "-c", KILLED, source, tmp_path / "out", str(6 * life)])
        if not done.returncode:
            break
        assert done.returncode == -signal.SIGKILL
    assert done.returncode == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "peace" / "out")


@pytest.mark.parametrize("moved", [0, 2, 100])
def test_a_candidate_that_was_being_adopted(tmp_path, monkeypatch, moved):
    """Killed between the choice of an algorithm and the last of its files."""
    source, text, statistics = speaker.write(tmp_path / "source"), tmp_path / "text.txt", tmp_path / "statistics"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 100)
    calibrate(source, statistics, texts=[str(text)], windows=3, window=32)
    halve.quantize(source, tmp_path / "peace" / "out", "nvfp4a16", stats=statistics)
    rename, left = type(tmp_path).rename, itertools.count()

    def killed(self, target):
        if self.parent.parent.name == workspace.NAME and not self.name.endswith(".part") and next(left) == moved:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(type(tmp_path), "rename", killed)
    try:
        halve.quantize(source, tmp_path / "out", "nvfp4a16", stats=statistics)
    except KeyboardInterrupt:
        halve.quantize(source, tmp_path / "out", "nvfp4a16", stats=statistics, resume=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "peace" / "out")


def test_a_disk_that_is_full_when_a_candidate_is_adopted(tmp_path, monkeypatch):
    """Which it is must be known whole, or not at all."""
    source, text, statistics = speaker.write(tmp_path / "source"), tmp_path / "text.txt", tmp_path / "statistics"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 100)
    calibrate(source, statistics, texts=[str(text)], windows=3, window=32)
    halve.quantize(source, tmp_path / "peace" / "out", "nvfp4a16", stats=statistics)
    opened = type(tmp_path).open

    def full(self, *arguments, **options):
        file = opened(self, *arguments, **options)
        if self.name == "adopted.part":
            file.write = lambda content: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        return file

    with monkeypatch.context() as patched:
        patched.setattr(type(tmp_path), "open", full)
        with pytest.raises(OutputError, match="No space left"):
            halve.quantize(source, tmp_path / "out", "nvfp4a16", stats=statistics)
    halve.quantize(source, tmp_path / "out", "nvfp4a16", stats=statistics, resume=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "peace" / "out")


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
@pytest.mark.parametrize("call", ["fsync", "pwrite"])
def test_a_commit_that_is_interrupted_is_made_good_by_the_next(tmp_path, monkeypatch, call, failure):
    """The lines may be there by then: they must not be there twice."""
    path = tmp_path / "journal"
    noted = journal.Journal(path, lambda: None)
    real = getattr(os, call)

    def fail(fd, *arguments):
        real(fd, *(argument[:9] if isinstance(argument, memoryview) else argument for argument in arguments))
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises((KeyboardInterrupt, OutputError)):
            noted.add(journal.Finished({"a": {}}, {"a.weight": "0"}))
    assert noted.finished == []
    noted.add(journal.Finished({"b": {}}, {"b.weight": "1"}))
    noted.close()
    again = journal.Journal(path, lambda: None)
    assert [list(one.tensors) for one in again.finished] == [["a"], ["b"]]
    again.close()
