"""State dicts of codes: every scheme written and read back, and refused where config and tensors contradict."""

import json
from contextlib import closing
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import halve
from halve import layouts, schemes
from halve.checkpoint.base import DTYPES, TensorInfo, read_array
from halve.checkpoint.hf import HfCheckpoint
from halve.checkpoint.source import open_checkpoint
from halve.checkpoint.torch_file import TorchWriter
from halve.errors import CheckpointError, FormatError
from halve.layouts.base import Contents
from halve.schemes import SCHEMES, Block
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import absmax, dequantize, quantize, tensor_scale
from tiny import llama

LAYOUT = layouts.get("torch")
OURS = json.loads((Path(__file__).parents[1] / "golden/layouts/torch/ours.json").read_text())
ROWS, COLUMNS = 300, 256
BANDS = ((0, 128), (128, 256), (256, ROWS))
MODULE = "model.layers.0.mlp.up_proj"
WEIGHT = TensorInfo(f"{MODULE}.weight", "BF16", (ROWS, COLUMNS))
INPUT_SCALE = 0.03125
Q4_1 = schemes.find(Block(element="uint4", scale="fp16", block_size=32, minimum=True))
QUANTIZED = [scheme for scheme in SCHEMES.values() if not scheme.dense] + [
    schemes.find(Block(element="fp8_e5m2", scale="fp16", block_size="tensor")),
    schemes.find(Block(element="uint8", scale="bf16", block_size=64, zero_point=True)),
    schemes.find(Block(element="fp8_e4m3fnuz", block_size=(128, 128))),
    Q4_1,
]


def bands_of(scheme):
    w = np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(ml_dtypes.bfloat16)
    if scheme is Q4_1:
        rng = np.random.default_rng(1)
        scales, mins = (rng.random((ROWS, COLUMNS // 32)).astype(np.float16).astype(np.float32) for _ in range(2))
        codes = rng.integers(0, 16, (ROWS, COLUMNS)).astype(np.uint8)
        return [QTensor(scheme.weight, codes[a:b], scales[a:b], mins=mins[a:b]) for a, b in BANDS]
    if scheme.weight.block_size == "tensor":
        whole = quantize(scheme.weight, w)
        return [QTensor(whole.block, whole.codes[a:b], whole.scales) for a, b in BANDS]
    scale = tensor_scale(scheme.weight, absmax(w))
    return [quantize(scheme.weight, w[a:b], tensor_scale=scale) for a, b in BANDS]


def write(folder, scheme, bands, *, change=None):
    """What the layout writes, in a folder; ``change`` is applied to the quantization_config."""
    folder.mkdir(exist_ok=True)
    contents = Contents({}, {}, {MODULE: scheme}, ["lm_head"])
    (file,) = LAYOUT.weight_files(folder, [LAYOUT.entries(WEIGHT, scheme)], contents)
    assert LAYOUT.file_bytes([LAYOUT.entries(WEIGHT, scheme)], contents) == file.nbytes
    at = dict.fromkeys((entry.name for entry in file.entries), 0)
    for (first_row, _), q in zip(BANDS, bands, strict=True):
        for name, array in LAYOUT.write(
            WEIGHT, scheme, q, first_row, INPUT_SCALE if scheme.activation_static else None
        ).items():
            data = np.ascontiguousarray(array).tobytes()
            file.write(name, at[name], data)
            at[name] += len(data)
    file.finish()
    config = LAYOUT.config(contents)
    if change:
        change(config["quantization_config"])
    (folder / "config.json").write_text(json.dumps(config))
    return open_checkpoint(folder)


@pytest.mark.parametrize("scheme", QUANTIZED, ids=lambda scheme: scheme.name or scheme.weight.element)
def test_bands_are_read_back_code_for_code(tmp_path, scheme):
    assert not LAYOUT.supports(scheme).refused
    bands = bands_of(scheme)
    with closing(write(tmp_path, scheme, bands)) as checkpoint:
        assert [file.name for file in checkpoint.files] == ["model.pt"]
        assert layouts.detect(checkpoint) is LAYOUT
        (stored,) = LAYOUT.open(checkpoint).values()
        assert (stored.name, stored.shape, stored.scheme) == (WEIGHT.name, WEIGHT.shape, scheme)
        assert set(stored.entries) == set(checkpoint.tensors)
        assert LAYOUT.input_scale(checkpoint, stored) == (INPUT_SCALE if scheme.activation_static else None)
        for (start, stop), q in zip(BANDS, bands, strict=True):
            r = LAYOUT.read(checkpoint, stored, start, stop)
            np.testing.assert_array_equal(r.codes, q.codes)
            np.testing.assert_array_equal(r.scales, q.scales)
            assert r.tensor_scale == q.tensor_scale
            for mine, theirs in ((r.zeros, q.zeros), (r.mins, q.mins)):
                assert (mine is None) == (theirs is None)
                if mine is not None:
                    np.testing.assert_array_equal(mine, theirs)
            np.testing.assert_array_equal(dequantize(r), dequantize(q))


@pytest.mark.parametrize("scheme", ["fp32", "bf16", "fp16"])
def test_a_cast_is_plain_to_every_program(tmp_path, scheme):
    source = llama.write(tmp_path / "source")
    halve.quantize(source, tmp_path / "out", scheme, layout="torch")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["torch_dtype"] == {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[scheme]
    assert "quantization_config" not in config
    with closing(open_checkpoint(tmp_path / "out")) as checkpoint:
        assert [file.name for file in checkpoint.files] == ["pytorch_model.bin"]
        assert layouts.detect(checkpoint).name == "dense"
        for name, array in llama.weights().items():
            found = read_array(checkpoint, name)
            np.testing.assert_array_equal(found, array.astype(found.dtype))


@pytest.mark.parametrize(("scheme", "stem"), [("fp16", "pytorch_model"), ("nvfp4a16", "model")])
def test_shards_have_an_index(tmp_path, scheme, stem):
    source = llama.write(tmp_path / "source")
    halve.quantize(source, tmp_path / "out", scheme, layout="torch", shard_bytes=100_000)
    suffix = "bin" if scheme == "fp16" else "pt"
    index = json.loads((tmp_path / "out" / f"{stem}.{suffix}.index.json").read_text())
    checkpoint = HfCheckpoint(tmp_path / "out")
    assert len(checkpoint.files) > 2
    assert {file.name for file in checkpoint.files} == set(index["weight_map"].values())
    assert all(name.startswith(f"{stem}-0000") for name in index["weight_map"].values())
    checkpoint.close()
    assert halve.verify(tmp_path / "out", against=source).ok


def test_two_schemes(tmp_path):
    source = llama.write(tmp_path / "source")
    halve.quantize(source, tmp_path / "out", "mxfp4a16", layout="torch", overrides=[("re:.*down_proj", "fp8")])
    with closing(open_checkpoint(tmp_path / "out")) as checkpoint:
        found = {name: stored.scheme.name for name, stored in LAYOUT.open(checkpoint).items()}
    assert {found[f"model.layers.{i}.mlp.down_proj.weight"] for i in range(2)} == {"fp8"}
    assert sorted(set(found.values())) == ["fp8", "mxfp4a16"]
    assert halve.verify(tmp_path / "out", against=source).ok


def test_the_golden_bytes():
    """Made by `python tests/golden/layouts/ours.py torch`."""
    from golden.layouts.ours import build

    assert build("torch") == OURS


def test_nibbles_and_scales_by_hand(tmp_path):
    """One block: even columns in the low nibble, the tensor scale a factor."""
    scheme = schemes.get("nvfp4a16")
    w = np.array([[6, -6, 0.5, 1, 1.5, 2, 3, 4, 0, -0.5, -1, -1.5, -2, -3, -4, 6]], np.float32) * 448
    q = quantize(scheme.weight, w.astype(ml_dtypes.bfloat16))
    band = LAYOUT.write(TensorInfo("a.weight", "BF16", w.shape), scheme, q, 0)
    assert band["a.weight"].tobytes() == bytes.fromhex("f721436590badc7e")
    assert band["a.weight_scale"].tobytes() == bytes([0x7E])
    assert band["a.weight_tensor_scale"].tolist() == [1.0]


@pytest.mark.parametrize("scheme", ["nvfp4", "fp8_static", "w4a16_asym"])
def test_a_missing_tensor_is_named(tmp_path, scheme):
    row = schemes.get(scheme)
    write(tmp_path, row, bands_of(row)).close()
    whole = HfCheckpoint(tmp_path)
    content = {name: read_array(whole, name) for name in whole.tensors}
    infos = dict(whole.tensors)
    whole.close()
    for missing in infos:
        (tmp_path / "model.pt").unlink()
        left = [info for name, info in infos.items() if name != missing]
        file = TorchWriter(tmp_path / "model.pt", left)
        for info in left:
            file.write(info.name, 0, content[info.name].tobytes())
        file.finish()
        with (
            closing(open_checkpoint(tmp_path)) as checkpoint,
            pytest.raises(CheckpointError, match=f"{missing} is missing"),
        ):
            LAYOUT.open(checkpoint)


def edited(**weight):
    return lambda config: config["groups"][0]["weight"].update(weight)


@pytest.mark.parametrize(
    "change",
    [
        edited(element="fp8_e4m3"),
        edited(element="int16"),
        edited(element="none"),
        edited(scale="fp32"),
        edited(scale=None),
        edited(block_size=32),
        edited(block_size=48),
        edited(block_size=0),
        edited(block_size=[0, 16]),
        edited(block_size="column"),
        edited(tensor_scale="yes"),
        edited(zero_point=True),
        edited(minimum=True),
        lambda config: config["groups"][0].update(input={"element": "fp8"}),
        lambda config: config["groups"][0].update(input_static=True),
        lambda config: config["groups"][0].update(modules=["model.layers.9.mlp.up_proj"]),
        lambda config: config["groups"][0].update(modules="all"),
        lambda config: config.update(groups=[]),
        lambda config: config.update(groups={"a": 1}),
        lambda config: config.update(groups=[None]),
        lambda config: config.pop("groups"),
    ],
)
def test_a_config_that_contradicts_the_tensors(tmp_path, change):
    scheme = schemes.get("nvfp4a16")
    checkpoint = write(tmp_path, scheme, bands_of(scheme), change=change)
    with closing(checkpoint), pytest.raises(CheckpointError) as raised:
        LAYOUT.open(checkpoint)
    assert str(tmp_path) in str(raised.value)
    assert raised.value.hint


def test_codes_that_do_not_end_on_a_byte():
    with pytest.raises(FormatError, match="33 columns of 4 bits"):
        LAYOUT.entries(TensorInfo("a.weight", "BF16", (4, 33)), schemes.find(Block(element="int4")))


def test_16_bit_integers_have_no_place():
    assert "int16" in LAYOUT.supports(schemes.find(Block(element="int16"))).refused


def test_every_type_of_the_layout_is_one_of_torch():
    for scheme in QUANTIZED:
        for entry in LAYOUT.entries(WEIGHT, scheme):
            assert entry.dtype in DTYPES
