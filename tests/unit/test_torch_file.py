"""torch checkpoints without torch: what torch saved, what halve writes, and attacks that must not run."""

import json
import os
import random
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from halve.checkpoint import torch_file
from halve.checkpoint.base import DTYPES, TensorInfo, read_array
from halve.checkpoint.hf import HfCheckpoint
from halve.checkpoint.storage import FileReader
from halve.checkpoint.torch_file import TorchWriter, file_bytes, tensors_of
from halve.errors import CheckpointError, OutputError, UnsupportedError
from tiny import llama
from unit import hostile_torch

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/layouts/torch/theirs.json").read_text())
ATTACKS = hostile_torch.attacks(Path("canary"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def opened(path):
    with FileReader(path) as file:
        return tensors_of(file)


def refused(path, match):
    """The error of reading ``path``, which must leave no file open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(CheckpointError, match=match) as raised:
        opened(path)
    assert raised.value.hint
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    return raised.value


# What torch saved


@pytest.mark.parametrize("name", sorted(GOLDEN["saved"]))
def test_tensors_are_those_of_torch(folder, name):
    saved = GOLDEN["saved"][name]
    (folder / "pytorch_model.bin").write_bytes(bytes.fromhex(saved["file"]))
    checkpoint = HfCheckpoint(folder)
    assert set(checkpoint.tensors) == set(saved["tensors"])
    for key, expected in saved["tensors"].items():
        found = read_array(checkpoint, key)
        assert list(found.shape) == expected["shape"]
        assert torch_name(found.dtype) == expected["dtype"]
        assert found.tobytes().hex() == expected["hex"]
        for start in range(found.shape[0] if found.ndim else 0):
            rows = read_array(checkpoint, key, start, start + 1)
            assert rows.tobytes() == found[start : start + 1].tobytes()
    checkpoint.close()


def torch_name(dtype):
    return f"torch.{dtype.name}"


def test_the_head_of_a_tied_model_is_no_second_weight(folder):
    (folder / "pytorch_model.bin").write_bytes(bytes.fromhex(GOLDEN["saved"]["tied"]["file"]))
    for tied, names in ((False, 2), (True, 1)):
        (folder / "config.json").write_text(json.dumps({"tie_word_embeddings": tied}))
        checkpoint = HfCheckpoint(folder)
        assert len(checkpoint.tensors) == names
        assert "model.embed_tokens.weight" in checkpoint.tensors
        checkpoint.close()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("legacy", "refused: it is a bare pickle, as torch wrote them before 1.6"),
        ("script", "TorchScript"),
        ("module", r"refused: it names torch\.nn\.modules\.linear\.Linear"),
        ("training", "'state_dict' is a dict, not a tensor"),
        ("optimizer", "'state' is a dict, not a tensor|a key that is a value of type int"),
    ],
)
def test_what_torch_saves_besides_is_refused(tmp_path, name, why):
    (tmp_path / "model.bin").write_bytes(bytes.fromhex(GOLDEN["refused"][name]))
    assert "torch" in refused(tmp_path / "model.bin", why).hint


# Folders


def write(path, tensors):
    entries = [TensorInfo(name, dtype_name(array), array.shape) for name, array in tensors.items()]
    writer = TorchWriter(path, entries)
    for name, array in tensors.items():
        writer.write(name, 0, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    writer.finish()


def dtype_name(array):
    return next(name for name, dtype in DTYPES.items() if dtype == array.dtype)


def sharded(folder, tensors, count):
    located = {}
    for i in range(count):
        file = f"pytorch_model-{i + 1:05d}-of-{count:05d}.bin"
        part = {name: tensors[name] for name in list(tensors)[i::count]}
        write(folder / file, part)
        located |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": located}))


@pytest.mark.parametrize("count", [1, 3])
def test_a_folder_of_torch_files(folder, count):
    tensors = llama.weights()
    if count == 1:
        write(folder / "pytorch_model.bin", tensors)
    else:
        sharded(folder, tensors, count)
    checkpoint = HfCheckpoint(folder)
    assert len(checkpoint.files) == count
    for name, array in tensors.items():
        np.testing.assert_array_equal(read_array(checkpoint, name), array)
        np.testing.assert_array_equal(read_array(checkpoint, name, 1, 3), array[1:3])
        checkpoint.release(name)
    checkpoint.close()


def test_safetensors_come_first(tmp_path):
    folder = llama.write(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    HfCheckpoint(folder).close()


@pytest.mark.parametrize("name", ["model.pt", "consolidated.00.pth", "weights.bin"])
def test_one_file_of_another_name(folder, name):
    write(folder / name, {"a": np.ones((2, 3), np.float32)})
    for left_by_trainers in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"):
        (folder / left_by_trainers).write_bytes(b"never opened")
    checkpoint = HfCheckpoint(folder)
    assert [file.name for file in checkpoint.files] == [name]
    checkpoint.close()


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["a.bin", "b.pt"], "2 torch files and no pytorch_model.bin.index.json"),
        (["pytorch_model-00001-of-00002.bin"], "is one of 2 files, and there is no pytorch_model.bin.index.json"),
        (["training_args.bin", "optimizer.pt"], "no safetensors file is there"),
        (["pytorch_model.bin"], "not a file that torch.save has written"),
    ],
)
def test_folders_that_are_refused(folder, names, why):
    for name in names:
        (folder / name).write_bytes(b"what is this")
    with pytest.raises(CheckpointError, match=why):
        HfCheckpoint(folder)


@pytest.mark.parametrize("name", ["../a.bin", "/etc/passwd", "model.safetensors", "sub/a.bin", None])
def test_an_index_that_leads_elsewhere(folder, name):
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="is not the name of a torch file"):
        HfCheckpoint(folder)


def test_a_shard_that_does_not_fit_its_index(folder):
    sharded(folder, llama.weights(), 2)
    path = folder / "pytorch_model.bin.index.json"
    index = json.loads(path.read_text())
    for change, why in (
        (lambda names: names.pop("model.norm.weight"), r"pytorch_model\.bin\.index\.json does not list"),
        (lambda names: names.update({"more": "pytorch_model-00001-of-00002.bin"}), "1 of its tensors are in no file"),
    ):
        names = dict(index["weight_map"])
        change(names)
        path.write_text(json.dumps({"weight_map": names}))
        with pytest.raises(CheckpointError, match=why):
            HfCheckpoint(folder)


# Attacks


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_attacks_run_nothing_and_are_explained(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content, why = ATTACKS[name]
    Path("model.bin").write_bytes(content)
    error = refused(Path("model.bin"), why)
    assert "model.bin" in str(error)
    assert len(str(error)) < 1500
    assert os.listdir() == ["model.bin"]  # noqa: PTH208


def test_the_attacks_differ_from_what_is_read_in_one_point(tmp_path):
    (tmp_path / "model.bin").write_bytes(hostile_torch.WHOLE)
    assert opened(tmp_path / "model.bin")["a"].info == TensorInfo("a", "F32", (2, 3))


@pytest.mark.parametrize("source", ["theirs", "ours"])
def test_a_file_cut_off_anywhere_is_an_error(tmp_path, source):
    path = tmp_path / "model.bin"
    if source == "ours":
        write(path, {"a": np.ones((2, 3), np.float32), "b": np.ones(2, DTYPES["F8_E4M3"])})
        content = path.read_bytes()
    else:
        content = bytes.fromhex(GOLDEN["saved"]["tied"]["file"])
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            opened(path)


def test_damaged_files_are_errors_or_read(tmp_path):
    """Random bytes changed: whatever comes of it, no other exception and no tensor outside the file."""
    path, rng, read = tmp_path / "model.bin", random.Random(0), 0
    originals = [bytes.fromhex(saved["file"]) for saved in GOLDEN["saved"].values()]
    for _ in range(3000):
        content = bytearray(rng.choice(originals))
        for _ in range(rng.choice((1, 1, 2, 8))):
            content[rng.randrange(len(content))] = rng.choice((0, 0xFF, rng.randrange(256)))
        path.write_bytes(content)
        try:
            located = opened(path)
        except CheckpointError:
            continue
        read += 1
        assert all(0 <= one.begin <= one.end <= len(content) for one in located.values())
    assert read > 100  # padding and numbers do not matter


# Writing


def test_what_is_written_is_a_sound_zip_archive(tmp_path):
    tensors = llama.weights()
    write(tmp_path / "model.bin", tensors)
    with zipfile.ZipFile(tmp_path / "model.bin") as file:
        assert file.testzip() is None
        names = [info.filename for info in file.infolist()]
        assert names[:3] == ["archive/data.pkl", "archive/byteorder", "archive/version"]
        assert all(info.compress_type == zipfile.ZIP_STORED for info in file.infolist())
    located = opened(tmp_path / "model.bin")
    assert list(located) == list(tensors)
    assert all(place.begin % 64 == 0 for place in located.values())


def test_any_order_and_any_thread_make_the_same_file(tmp_path):
    rng = np.random.default_rng(0)
    data = {f"t{i}": rng.integers(0, 256, size).astype(np.uint8) for i, size in enumerate((1, 0, 1000, 65536, 7))}
    write(tmp_path / "whole.bin", data)
    entries = [TensorInfo(name, "U8", array.shape) for name, array in data.items()]
    writer = TorchWriter(tmp_path / "pieces.bin", entries)
    assert writer.nbytes == file_bytes(entries) == (tmp_path / "whole.bin").stat().st_size
    pieces = [(name, at, array[at : at + 999]) for name, array in data.items() for at in range(0, len(array), 999)]
    rng.shuffle(pieces)
    threads = [
        threading.Thread(target=lambda part: [writer.write(n, at, a.data) for n, at, a in part], args=(pieces[i::4],))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.finish()
    assert (tmp_path / "pieces.bin").read_bytes() == (tmp_path / "whole.bin").read_bytes()


@pytest.mark.parametrize("lengths", [(0, 5), (5, 0), (1, 1), (1000, 70000), (3, 1 << 20)])
def test_checksums_are_joined(lengths):
    first, second = (random.Random(length).randbytes(length) for length in lengths)
    joined = torch_file._joined(zlib.crc32(first), zlib.crc32(second), len(second))
    assert joined == zlib.crc32(first + second)


def test_missing_bytes_are_named(tmp_path):
    writer = TorchWriter(tmp_path / "model.bin", [TensorInfo("a", "U8", (8,))])
    writer.write("a", 4, b"1234")
    with pytest.raises(OutputError, match="a has 0 of its 8 bytes"):
        writer.finish()
    with pytest.raises(ValueError, match="no place"):
        writer.write("a", 4, b"1234")
    with pytest.raises(ValueError, match="no place"):
        writer.write("a", 6, b"123")
    writer.discard()
    assert not list(tmp_path.iterdir())


def test_two_tensors_of_one_name(tmp_path):
    with pytest.raises(UnsupportedError, match="two tensors would be called a"):
        TorchWriter(tmp_path / "model.bin", [TensorInfo("a", "U8", (8,))] * 2)


def test_a_tensor_of_5_gb_has_64_bit_offsets(tmp_path):
    """Laid out, not written: the file is as sparse as the disk allows."""
    large = TensorInfo("large", "F32", (5 << 28,))
    entries = [large, TensorInfo("small", "U8", (3,))]
    plan, small = torch_file._blueprint(entries), torch_file._small(entries)
    path = tmp_path / "model.bin"
    with path.open("wb") as file:
        for name, record in plan.records.items():
            file.seek(plan.headers[name])
            file.write(plan.header(name, 0))
            if name in small:
                file.write(small[name])
            elif name == "data/1":
                file.seek(record.begin)
                file.write(b"end")
        file.seek(plan.directory)
        file.write(plan.trailer(dict.fromkeys(plan.records, 0)))
    assert path.stat().st_size == plan.nbytes > 5 << 30
    located = opened(path)
    assert located["large"].end == located["large"].begin + (5 << 30)
    with FileReader(path) as file:
        assert file.read(located["small"].begin, 3) == b"end"
    with zipfile.ZipFile(path) as file:
        assert file.getinfo("archive/data/0").file_size == 5 << 30
