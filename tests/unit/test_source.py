"""What a user may type as the source of a job."""

import shutil
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from halve.checkpoint.gguf_checkpoint import GgufCheckpoint
from halve.checkpoint.hf import HfCheckpoint
from halve.checkpoint.source import open_checkpoint
from halve.errors import CheckpointError
from tiny import llama
from tiny.gguf_models import TinyModel
from unit.fake_hub import REPOSITORY, store


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def refused(spec, match):
    with pytest.raises(CheckpointError, match=match) as raised:
        open_checkpoint(spec)
    assert raised.value.hint
    return raised.value


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder(tmp_path, kind):
    folder = llama.write(tmp_path / "model")
    checkpoint = open_checkpoint(kind(folder))
    assert isinstance(checkpoint, HfCheckpoint)
    assert checkpoint.path == folder
    checkpoint.close()


@pytest.mark.parametrize("name", ["model.gguf", "MODEL.GGUF"])
def test_a_gguf_file(tmp_path, name):
    TinyModel().write(tmp_path / name)
    checkpoint = open_checkpoint(name)
    assert isinstance(checkpoint, GgufCheckpoint)
    assert "model.norm.weight" in checkpoint.tensors
    checkpoint.close()


def test_a_gguf_file_that_is_none(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"not one")
    refused("model.gguf", r"model\.gguf")


def test_a_repository_in_the_cache(tmp_path):
    snapshot = store(tmp_path / "cache")
    for spec in (REPOSITORY, f"{REPOSITORY}@main"):
        checkpoint = open_checkpoint(spec)
        assert checkpoint.path == snapshot
        checkpoint.close()


def test_a_local_folder_comes_first(tmp_path):
    store(tmp_path / "cache")
    llama.write(tmp_path / REPOSITORY)
    checkpoint = open_checkpoint(REPOSITORY)
    assert checkpoint.path == Path(REPOSITORY)
    checkpoint.close()
    shutil.rmtree(tmp_path / REPOSITORY)
    llama.write(tmp_path / f"{REPOSITORY}@main")
    checkpoint = open_checkpoint(f"{REPOSITORY}@main")
    assert checkpoint.path == Path(f"{REPOSITORY}@main")
    checkpoint.close()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.pt", "model.pth", "MODEL.BIN"])
def test_a_file_of_weights_alone(tmp_path, name):
    save_file(llama.weights(), tmp_path / name)
    assert str(tmp_path) in refused(tmp_path / name, "one file of weights is not a model").hint


@pytest.mark.parametrize("name", ["model.ckpt", "model.pkl"])
def test_a_pickle(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x02}q\x00.")
    assert "weights_only=True" in refused(name, f"{name}: refused: it is a pickle").hint


@pytest.mark.parametrize(
    "spec",
    ["gpt2", "./missing", "/missing/model", "a/b/c", "org/model.gguf", "org/model.bin", "../x", "", Path("org/name")],
)
def test_nothing_of_that_name(tmp_path, spec):
    error = refused(spec, "no such file or folder|config.json is missing")
    assert "config.json" in error.hint


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "model.h5").touch()
    refused("model.h5", "neither a folder nor a .gguf or .onnx file")


def test_a_name_that_no_file_can_have():
    refused("a" * 5000, "File name too long")
    refused("a\0b", "no such file")
