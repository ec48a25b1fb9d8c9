"""A flipped bit anywhere is found, and named."""

import json
import shutil

import numpy as np
import pytest

import halve
from halve.checkpoint.safetensors import read_header
from halve.errors import CheckpointError
from tiny import llama


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("verify")
    source = llama.write(root / "source")
    halve.quantize(source, root / "out", "nvfp4a16")
    return source, root / "out"


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made[1], tmp_path / "copy")


def flip(path, offset, bit):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def test_a_whole_checkpoint_is_ok(made):
    source, out = made
    proof = halve.verify(out, against=source)
    assert proof.ok
    assert 15 < proof.mean_sqnr_db < 25
    assert proof.worst.sqnr_db <= proof.mean_sqnr_db
    assert json.loads(json.dumps(proof.to_json()))["ok"] is True


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_anywhere_is_found(copy, seed):
    rng = np.random.default_rng(seed)
    files = sorted(path for path in copy.iterdir() if path.name != "README.md")  # which people write into
    path = files[seed % len(files)]
    flip(path, int(rng.integers(path.stat().st_size)), int(rng.integers(8)))
    try:
        proof = halve.verify(copy)
    except CheckpointError:
        return  # the header, the index or config.json can no longer be read at all
    assert not proof.ok


@pytest.mark.parametrize("name", ["weight_packed", "weight_scale", "weight_global_scale"])
def test_a_changed_tensor_is_named(copy, name):
    file = copy / "model.safetensors"
    header = read_header(file)
    tensor = next(t for t in header.tensors if t.endswith(f"up_proj.{name}"))
    flip(file, header.data_start + header.tensors[tensor].begin, 0)
    proof = halve.verify(copy)
    assert tensor in {problem.where for problem in proof.problems}


def test_without_a_manifest_ranges_are_still_checked(copy):
    (copy / "halve.json").unlink()
    assert halve.verify(copy).ok
    file = copy / "model.safetensors"
    header = read_header(file)
    tensor = next(t for t in header.tensors if t.endswith("up_proj.weight_scale"))
    data = bytearray(file.read_bytes())
    data[header.data_start + header.tensors[tensor].begin] = 0x7F  # E4M3's NaN
    file.write_bytes(data)
    problems = halve.verify(copy).problems
    assert any("block scale is NaN" in problem.what for problem in problems)


def test_another_models_source_is_noticed(copy, tmp_path):
    other = llama.write(tmp_path / "other", llama.weights(seed=1))
    problems = halve.verify(copy, against=other).problems
    assert any("below nvfp4a16's floor" in problem.what for problem in problems)
    assert any("differ from the source" in problem.what for problem in problems)


def test_a_missing_file_is_named(copy):
    (copy / "tokenizer.json").unlink()
    assert ("tokenizer.json", "the file is missing") in {(p.where, p.what) for p in halve.verify(copy).problems}


def test_a_tensor_of_another_model_is_named(copy, tmp_path):
    weights = llama.weights()
    del weights["model.norm.weight"]
    other = llama.write(tmp_path / "other", weights)
    problems = {(p.where, p.what) for p in halve.verify(copy, against=other).problems}
    assert ("model.norm.weight", "only in the checkpoint") in problems


def test_not_a_checkpoint_is_an_error(tmp_path):
    with pytest.raises(CheckpointError):
        halve.verify(tmp_path)
