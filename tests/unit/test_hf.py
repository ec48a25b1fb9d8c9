"""Checkpoint folders: whole ones against the safetensors library, broken and hostile ones against their errors."""

import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors.numpy import save_file

from halve.checkpoint import hf
from halve.checkpoint.base import read_array
from halve.checkpoint.hf import AUXILIARY, INDEX, SINGLE, HfCheckpoint
from halve.errors import CheckpointError
from tiny import llama
from unit.hostile_safetensors import ATTACKS


@pytest.fixture
def single(tmp_path):
    return llama.write(tmp_path / "single")


@pytest.fixture
def sharded(tmp_path):
    return llama.write(tmp_path / "sharded", shards=3)


def edit_index(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def refused(folder, match):
    """The error of opening ``folder``, which must leave no file open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(CheckpointError, match=match) as raised:
        HfCheckpoint(folder)
    assert raised.value.hint
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    return raised.value


# Whole folders


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_tensors_are_those_of_the_library(tmp_path, shards):
    folder = llama.write(tmp_path / "model", shards=shards)
    checkpoint = HfCheckpoint(folder)
    expected = llama.weights()
    assert set(checkpoint.tensors) == set(expected)
    assert len(checkpoint.files) == shards
    assert checkpoint.config == llama.config()
    assert checkpoint.quantization is None
    for name, tensor in expected.items():
        found = read_array(checkpoint, name)
        assert found.dtype == tensor.dtype
        assert found.shape == tensor.shape
        assert found.tobytes() == tensor.tobytes()
    checkpoint.close()
    checkpoint.close()


def test_rows_of_a_tensor(single):
    checkpoint = HfCheckpoint(single)
    name = "model.layers.0.mlp.up_proj.weight"
    tensor = llama.weights()[name]
    buffer = memoryview(bytearray(b"." * 10_000))
    found = checkpoint.read(name, 3, 7, buffer)
    assert bytes(found) == tensor[3:7].tobytes()
    assert bytes(buffer[len(found) :]) == b"." * (10_000 - len(found))
    assert bytes(checkpoint.read(name, 5, 5, buffer)) == b""
    halves = np.empty(tensor[0:2].size, np.float16)
    checkpoint.read(name, 0, 2, halves.data)
    assert halves.tobytes() == tensor[:2].tobytes()
    checkpoint.release(name)
    assert read_array(checkpoint, name).tobytes() == tensor.tobytes()
    checkpoint.close()


@pytest.mark.parametrize(("start", "stop", "room"), [(-1, 2, 9999), (3, 2, 9999), (0, 129, 99999), (0, 2, 511)])
def test_rows_that_are_not_there_are_a_mistake(single, start, stop, room):
    checkpoint = HfCheckpoint(single)
    with pytest.raises(ValueError, match="which has 128"):
        checkpoint.read("model.layers.0.self_attn.q_proj.weight", start, stop, memoryview(bytearray(room)))
    checkpoint.close()


def test_scalars_and_tensors_without_elements(tmp_path):
    tensors = {"scalar": np.array(2.5, np.float32), "empty": np.zeros((3, 0), np.float16), "none": np.zeros(0, np.int8)}
    folder = llama.write(tmp_path / "model", tensors)
    checkpoint = HfCheckpoint(folder)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read_array(checkpoint, name), tensor)
        checkpoint.release(name)
    checkpoint.close()


def test_tensors_come_in_the_order_of_files_and_data(sharded):
    checkpoint = HfCheckpoint(sharded)
    files = [file.name for file in checkpoint.files]
    assert files == sorted(files)
    index = json.loads((sharded / INDEX).read_text())["weight_map"]
    assert [index[name] for name in checkpoint.tensors] == sorted(index[name] for name in checkpoint.tensors)
    checkpoint.close()


def test_threads_read_at_once(sharded):
    checkpoint = HfCheckpoint(sharded)
    expected = llama.weights()
    local = threading.local()

    def read(job):
        name, row = job
        local.buffer = getattr(local, "buffer", memoryview(bytearray(1 << 16)))
        return bytes(checkpoint.read(name, row, row + 1, local.buffer)) == expected[name][row : row + 1].tobytes()

    jobs = [(name, row) for name, tensor in expected.items() for row in range(0, len(tensor), 5)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, jobs))
    checkpoint.close()


def test_one_file_of_another_name_will_do(single):
    (single / SINGLE).rename(single / "weights.safetensors")
    checkpoint = HfCheckpoint(single)
    assert set(checkpoint.tensors) == set(llama.weights())
    checkpoint.close()


def test_a_single_file_comes_before_an_index(single, sharded):
    shutil.copy(sharded / INDEX, single)
    checkpoint = HfCheckpoint(single)
    assert [file.name for file in checkpoint.files] == [SINGLE]
    checkpoint.close()


def test_files_beside_the_index_are_left_alone(sharded):
    (sharded / "consolidated.safetensors").write_bytes(b"never opened")
    (sharded / "pytorch_model.bin").write_bytes(b"never opened")
    HfCheckpoint(sharded).close()


def test_an_infinity_in_the_config_is_kept(single):
    config = llama.config() | {"time_step_limit": [0.0, float("inf")]}
    (single / "config.json").write_text(json.dumps(config))
    checkpoint = HfCheckpoint(single)
    assert checkpoint.config == config
    checkpoint.close()


# Quantized ones


def test_quantization_is_told(single):
    found = {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}
    (single / "config.json").write_text(json.dumps(llama.config() | {"quantization_config": found}))
    checkpoint = HfCheckpoint(single)
    assert checkpoint.quantization == found
    checkpoint.close()


def test_modelopts_own_file_is_read(single):
    found = {"quant_algo": "NVFP4", "group_size": 16}
    (single / "hf_quant_config.json").write_text(json.dumps({"producer": {"name": "modelopt"}, "quantization": found}))
    checkpoint = HfCheckpoint(single)
    assert checkpoint.quantization == found
    checkpoint.close()


@pytest.mark.parametrize("found", ["fp8", 8, [1], True])
def test_a_quantization_config_must_be_an_object(single, found):
    (single / "config.json").write_text(json.dumps({"quantization_config": found}))
    refused(single, r"config\.json: quantization_config is not an object")


# config.json


def test_no_config(single):
    (single / "config.json").unlink()
    refused(single, r"config\.json is missing")


@pytest.mark.parametrize(
    ("name", "hint"), [("model.gguf", "gguf file itself"), ("adapter_config.json", "merge"), ("snapshots", "snapshots")]
)
def test_a_folder_of_another_kind_gets_its_own_hint(tmp_path, name, hint):
    (tmp_path / name).mkdir()
    assert hint in refused(tmp_path, r"config\.json is missing").hint


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not valid JSON"),
        (b'{"a": 1', "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b'{"a": ' + b"[" * 100_000, "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"hidden_size": 1, "hidden_size": 2}', "'hidden_size' appears twice"),
    ],
)
def test_a_config_that_cannot_be_read(single, content, why):
    (single / "config.json").write_bytes(content)
    refused(single, f"config.json: .*{why}")


def test_a_config_that_is_absurdly_large(single, monkeypatch):
    monkeypatch.setattr(hf, "CONFIG_LIMIT", 100)
    refused(single, r"config\.json: \d+ bytes, more than the 100")


def test_no_folder(tmp_path):
    refused(tmp_path / "missing", "missing: No such file or directory")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "file: Not a directory")


# Weights that are not there


@pytest.mark.parametrize("name", ["model.ckpt", "weights.pkl"])
def test_pickles_are_refused_with_a_way_out(single, name):
    (single / SINGLE).rename(single / name)
    error = refused(single, f"{name}: refused: it is a pickle, and reading one runs code")
    assert "safetensors" in error.hint
    assert "weights_only=True" in error.hint


def test_no_weights(single):
    (single / SINGLE).unlink()
    refused(single, "no safetensors file")


def test_several_files_without_an_index(sharded):
    (sharded / INDEX).unlink()
    refused(sharded, "3 safetensors files and no model.safetensors.index.json")


def test_a_file_without_tensors(single):
    save_file({}, single / SINGLE)
    refused(single, "hold no tensors")


def test_a_missing_shard(sharded):
    (sharded / "model-00002-of-00003.safetensors").unlink()
    refused(sharded, "model-00002-of-00003.safetensors: no such file")


@pytest.mark.parametrize("attack", ["truncated data", "overlapping tensors", "a name twice", "a pickle", "nothing"])
@pytest.mark.parametrize("shards", [1, 3])
def test_damaged_weights(tmp_path, attack, shards):
    folder = llama.write(tmp_path / "model", shards=shards)
    name = SINGLE if shards == 1 else "model-00002-of-00003.safetensors"
    content, why = ATTACKS[attack]
    (folder / name).write_bytes(content)
    refused(folder, f"{name}: .*({why})")


def test_weights_that_are_no_file(single):
    (single / SINGLE).unlink()
    (single / SINGLE).mkdir()
    refused(single, "not a regular file")
    (single / SINGLE).rmdir()
    os.mkfifo(single / SINGLE)
    refused(single, "not a regular file")


def test_a_file_that_shrinks_while_it_is_read(single):
    checkpoint = HfCheckpoint(single)
    os.truncate(single / SINGLE, 5000)
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: model\.embed_tokens\.weight: the file ends at byte"
    ):
        read_array(checkpoint, "model.embed_tokens.weight")
    checkpoint.close()


# The index


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "../../etc/passwd.safetensors",
        "/etc/model.safetensors",
        "sub/model.safetensors",
        "..\\model.safetensors",
        "C:\\model.safetensors",
        "model.safetensors\0",
        "model\0.safetensors",
        "model.bin",
        "/etc/passwd",
        "..",
        "",
        None,
        7,
        ["model.safetensors"],
    ],
)
def test_names_that_lead_elsewhere_are_refused(sharded, name):
    edit_index(sharded, lambda index: index.update({"model.norm.weight": name}))
    refused(sharded, r"index\.json: refused: tensor 'model\.norm\.weight' is in .*, which is not the name")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{}", "weight_map is no object"),
        ('{"weight_map": {}}', "weight_map is no object"),
        ('{"weight_map": ["a"]}', "weight_map is no object"),
        ("[]", "not a JSON object"),
        ("{", "not valid JSON"),
        ('{"weight_map": {"a": "b.safetensors", "a": "c.safetensors"}}', "'a' appears twice"),
        ('{"weight_map": ' + '{"a":' * 100_000, "not valid JSON"),
    ],
)
def test_an_index_that_cannot_be_read(sharded, content, why):
    (sharded / INDEX).write_text(content)
    refused(sharded, f"index.json: .*{why}")


def test_a_tensor_that_no_shard_holds(sharded):
    edit_index(sharded, lambda index: index.update({"model.extra": "model-00001-of-00003.safetensors"}))
    refused(sharded, r"1 of its tensors are in no file, 'model\.extra' first")


def test_a_tensor_that_the_index_does_not_list(sharded):
    edit_index(sharded, lambda index: index.pop("model.norm.weight"))
    refused(sharded, r"holds tensor 'model\.norm\.weight', which model\.safetensors\.index\.json does not list")


def test_a_tensor_that_the_index_gives_elsewhere(sharded):
    def swap(index):
        own = index["model.norm.weight"]
        index["model.norm.weight"] = next(file for file in index.values() if file != own)

    edit_index(sharded, swap)
    refused(sharded, r"holds tensor 'model\.norm\.weight', which .* gives to model-0000")


def test_a_tensor_in_two_shards(sharded):
    first, second = (sharded / f"model-0000{i}-of-00003.safetensors" for i in (1, 2))
    save_file({**load_bfloat16(second), **dict([next(iter(load_bfloat16(first).items()))])}, second)
    refused(sharded, r"model-00002-of-00003\.safetensors: holds tensor .*, which .* gives to model-00001")


def load_bfloat16(path):
    """`safetensors.numpy.load_file` knows no bfloat16, and these files hold nothing else."""
    return {
        name: np.frombuffer(tensor["data"], ml_dtypes.bfloat16).reshape(tensor["shape"])
        for name, tensor in safetensors.deserialize(path.read_bytes())
    }


# Links


def cache(root, folder, *, commit="c" * 40):
    """``folder`` as the Hugging Face cache stores it: blobs, and a snapshot of links to them."""
    repository = root / "models--org--name"
    (repository / "blobs").mkdir(parents=True)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for i, path in enumerate(sorted(folder.iterdir())):
        shutil.copy(path, repository / "blobs" / f"{i:040x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{i:040x}")
    return snapshot


@pytest.mark.parametrize("shards", [1, 3])
def test_a_snapshot_in_the_hugging_face_cache(tmp_path, shards):
    snapshot = cache(tmp_path, llama.write(tmp_path / "model", shards=shards))
    checkpoint = HfCheckpoint(snapshot)
    assert set(checkpoint.tensors) == set(llama.weights())
    assert set(checkpoint.auxiliary()) == {"tokenizer.json"}
    assert checkpoint.files[0].parent == snapshot
    checkpoint.close()
    (tmp_path / "link").symlink_to(snapshot)
    HfCheckpoint(tmp_path / "link").close()


def test_a_cache_with_blobs_that_repositories_share(tmp_path):
    snapshot = cache(tmp_path, llama.write(tmp_path / "model"))
    store = tmp_path / "blobs" / "ab"
    store.mkdir(parents=True)
    blob = (snapshot / SINGLE).resolve()
    blob.rename(store / ("ab" * 32))
    blob.symlink_to(f"../../blobs/ab/{'ab' * 32}")
    refused(snapshot, "outside of the folder")
    (tmp_path / "blobs" / ".huggingface-shared-blobs").write_text("1\n")
    HfCheckpoint(snapshot).close()


@pytest.mark.parametrize("name", [SINGLE, "config.json"])
def test_links_out_of_the_folder_are_refused(single, tmp_path, name):
    (single / name).rename(tmp_path / "elsewhere")
    (single / name).symlink_to(tmp_path / "elsewhere")
    refused(single, f"{name}: refused: it is a link to {tmp_path / 'elsewhere'}, outside")


def test_links_out_of_a_snapshots_repository_are_refused(tmp_path):
    snapshot = cache(tmp_path, llama.write(tmp_path / "model"))
    other = tmp_path / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    shutil.copy(snapshot / SINGLE, other / "x")
    (snapshot / SINGLE).unlink()
    (snapshot / SINGLE).symlink_to("../../../models--org--other/blobs/x")
    refused(snapshot, "outside of the folder")


def test_only_a_cache_may_link_to_its_blobs(tmp_path):
    snapshot = cache(tmp_path, llama.write(tmp_path / "model"))
    snapshot.parent.parent.rename(tmp_path / "plain")
    refused(tmp_path / "plain" / "snapshots" / snapshot.name, "outside of the folder")


def test_links_within_the_folder_work(single):
    (single / SINGLE).rename(single / "blob")
    (single / SINGLE).symlink_to("blob")
    HfCheckpoint(single).close()


def test_links_that_lead_nowhere(single):
    (single / SINGLE).unlink()
    (single / SINGLE).symlink_to("gone")
    refused(single, "no such file")
    (single / SINGLE).unlink()
    (single / SINGLE).symlink_to(SINGLE)
    refused(single, "cannot be opened")


# Files that travel with the weights


def test_auxiliary_files(single):
    expected = {name: name.encode() for name in [*AUXILIARY, "LICENSE", "LICENSE.txt"]}
    for name, content in expected.items():
        (single / name).write_bytes(content)
    for name in ("README.md", "modeling_evil.py", "training_args.bin", "optimizer.pt", "notes.txt"):
        (single / name).write_text("not copied")
    checkpoint = HfCheckpoint(single)
    assert checkpoint.auxiliary() == expected
    checkpoint.close()


def test_auxiliary_files_are_files(single):
    (single / "LICENSE").mkdir()
    (single / "vocab.txt").symlink_to("gone")
    (single / "tokenizer.json").unlink()
    os.mkfifo(single / "tokenizer.json")
    checkpoint = HfCheckpoint(single)
    assert checkpoint.auxiliary() == {}
    checkpoint.close()


def test_an_auxiliary_file_from_elsewhere_is_refused(single, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (single / "merges.txt").symlink_to("../secret")
    checkpoint = HfCheckpoint(single)
    with pytest.raises(CheckpointError, match=r"merges\.txt: refused: it is a link"):
        checkpoint.auxiliary()
    checkpoint.close()


def test_an_absurdly_large_auxiliary_file_is_refused(single):
    os.truncate(single / "tokenizer.json", 1 << 30)
    checkpoint = HfCheckpoint(single)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: 1073741824 bytes"):
        checkpoint.auxiliary()
    checkpoint.close()
