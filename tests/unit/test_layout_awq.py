"""Weights packed as AutoAWQ packs them, the golden files: read with its values, refused where they contradict."""

import hashlib
import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import halve
from halve import layouts, schemes
from halve.checkpoint.base import TensorInfo
from halve.checkpoint.source import open_checkpoint
from halve.errors import CheckpointError, FormatError, UnsupportedError
from halve.layouts.base import Contents
from halve.schemes import Block
from halve.schemes.quantize import dequantize, quantize
from tiny import folders, llama

LAYOUT = layouts.get("awq")
GOLDEN = Path(__file__).parents[1] / "golden" / "layouts" / "awq"
THEIRS = json.loads((GOLDEN / "theirs.json").read_text())["cases"]
OURS = json.loads((GOLDEN / "ours.json").read_text())
MODULE = "model.layers.0.mlp.up_proj"
PLAIN = "groups of 32, zero points"
SYMMETRIC = "groups of 32, no zero points"


def opened(tmp_path, case, *, change=None, **config):
    """A golden case as a folder; ``change`` is applied to its tensors, ``config`` to its quantization_config."""
    golden = THEIRS[case]
    tensors = {f"{MODULE}.{name}": tensor for name, tensor in folders.tensors(golden["tensors"]).items()}
    if change:
        change(tensors)
    quantization = {k: v for k, v in (golden["quantization_config"] | config).items() if v is not None}
    return folders.write(tmp_path / "model", {"quantization_config": quantization}, tensors)


def values(checkpoint, step=128):
    (stored,) = LAYOUT.open(checkpoint).values()
    bands = range(0, stored.shape[0], step)
    return np.concatenate(
        [dequantize(LAYOUT.read(checkpoint, stored, a, min(a + step, stored.shape[0]))) for a in bands]
    )


def digest(checkpoint):
    return hashlib.sha256(values(checkpoint).tobytes()).hexdigest()


def refused(tmp_path, why, case=PLAIN, **changes):
    with closing(opened(tmp_path, case, **changes)) as checkpoint, pytest.raises(CheckpointError, match=why) as raised:
        values(checkpoint)
    assert raised.value.hint
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize("case", sorted(THEIRS))
def test_values_are_those_of_the_field(tmp_path, case):
    with closing(opened(tmp_path, case)) as checkpoint:
        assert layouts.detect(checkpoint) is LAYOUT
        (stored,) = LAYOUT.open(checkpoint).values()
        assert stored.block.zero_point == ("no zero points" not in case)
        assert set(stored.entries) == set(checkpoint.tensors)
        assert digest(checkpoint) == THEIRS[case]["sha256"]
        np.testing.assert_array_equal(values(checkpoint, step=8), values(checkpoint))


def test_without_zero_points_a_symmetric_weight_is_whole(tmp_path):
    with closing(opened(tmp_path, SYMMETRIC, change=lambda t: t.pop(f"{MODULE}.qzeros"))) as checkpoint:
        assert digest(checkpoint) == THEIRS[SYMMETRIC]["sha256"]


def test_names_of_older_configs(tmp_path):
    older = {"bits": None, "group_size": None, "w_bit": 4, "q_group_size": 32, "version": "GEMM"}
    with closing(opened(tmp_path, PLAIN, **older)) as checkpoint:
        assert digest(checkpoint) == THEIRS[PLAIN]["sha256"]
        config = checkpoint.quantization
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "quant_config.json").write_text(json.dumps(config))
    with closing(open_checkpoint(tmp_path / "model")) as checkpoint:
        assert layouts.detect(checkpoint) is LAYOUT
        assert digest(checkpoint) == THEIRS[PLAIN]["sha256"]


@pytest.mark.parametrize(
    "change", [{"bits": 8}, {"bits": None}, {"group_size": 0}, {"group_size": "32"}, {"zero_point": 1}]
)
def test_a_config_that_makes_no_sense(tmp_path, change):
    refused(tmp_path, "halve reads AWQ of 4", **change)


@pytest.mark.parametrize("change", [{"version": "gemv"}, {"version": "marlin"}, {"backend": "llm-awq"}])
def test_another_order_of_words(tmp_path, change):
    refused(tmp_path, "is not one that halve reads", **change)


@pytest.mark.parametrize("size", [16, 64, -1])
def test_another_group_size(tmp_path, size):
    refused(tmp_path, "its layout needs", group_size=size)


def test_a_group_size_that_does_not_divide(tmp_path):
    refused(tmp_path, "64 columns is not a multiple of the block size 48", group_size=48)


def test_8_bits_under_a_config_of_4(tmp_path):
    def change(tensors):
        kind, (rows, columns), data = tensors[f"{MODULE}.qweight"]
        tensors[f"{MODULE}.qweight"] = kind, (rows, columns * 2), data * 2

    refused(tmp_path, "its layout needs", change=change)


def test_symmetric_claimed_over_zero_points(tmp_path):
    refused(tmp_path, "qzeros differs from 8", zero_point=False)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scales_that_are_no_numbers(tmp_path, value):
    def change(tensors):
        kind, shape, data = tensors[f"{MODULE}.scales"]
        numbers = np.frombuffer(data, np.float16).copy()
        numbers[5] = value
        tensors[f"{MODULE}.scales"] = kind, shape, numbers.tobytes()

    refused(tmp_path, "scales holds NaN or Inf", change=change)


def test_scales_that_are_integers(tmp_path):
    def change(tensors):
        _, shape, data = tensors[f"{MODULE}.scales"]
        tensors[f"{MODULE}.scales"] = "I16", shape, data

    refused(tmp_path, "I16, not a float", change=change)


@pytest.mark.parametrize("name", ["qweight", "qzeros", "scales"])
def test_a_missing_tensor(tmp_path, name):
    refused(tmp_path, f"{name} is missing", change=lambda t: t.pop(f"{MODULE}.{name}"))


# Writing


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    wide = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = llama.decoder_config("llama", vocab_size=128, head_dim=64, **wide)
    return llama.write_decoder(tmp_path_factory.mktemp("awq") / "source", config)


def test_what_is_written_is_read_code_for_code(source, tmp_path):
    halve.quantize(source, tmp_path / "out", "w4a16_asym", layout="awq")
    block = LAYOUT.bind(schemes.get("w4a16_asym"), "F32").weight
    with closing(open_checkpoint(tmp_path / "out")) as checkpoint, closing(open_checkpoint(source)) as original:
        found = LAYOUT.open(checkpoint)
        for name, stored in found.items():
            info = original.tensors[name]
            data = np.empty(info.nbytes, np.uint8)
            original.read(name, 0, info.rows, data.data)
            expected = quantize(block, data.view("f4").reshape(info.shape))
            q = LAYOUT.read(checkpoint, stored, 0, stored.shape[0])
            np.testing.assert_array_equal(q.codes, expected.codes)
            np.testing.assert_array_equal(q.scales, expected.scales)
            np.testing.assert_array_equal(q.zeros, expected.zeros)
        assert len(found) == 21
    assert halve.verify(tmp_path / "out", against=source).ok


def test_the_golden_bytes():
    """Made by `python tests/golden/layouts/ours.py awq`."""
    from golden.layouts.ours import build

    assert build("awq") == OURS


def test_the_order_of_a_word():
    """Eight outputs, 0 to 7, in one word."""
    block = LAYOUT.bind(schemes.get("w4a16_asym"), "F32").weight
    weight = TensorInfo("a.weight", "BF16", (8, 128))
    codes = np.arange(8, dtype=np.uint8)[:, None].repeat(128, 1)
    q = quantize(block, np.ones(weight.shape, np.float32))
    band = LAYOUT.write(weight, schemes.find(block), type(q)(block, codes, q.scales, zeros=q.zeros), 0)
    assert set(band["a.qweight"].view(np.uint32).flat) == {0x75316420}


def test_one_group_size_for_all(tmp_path):
    small = Block(element="uint4", scale="fp16", block_size=64, zero_point=True)
    contents = Contents({}, {}, {"a": schemes.get("w4a16_asym"), "b": schemes.find(small)}, [])
    with pytest.raises(UnsupportedError, match="one group size"):
        LAYOUT.weight_files(tmp_path, [], contents)


@pytest.mark.parametrize(("rows", "columns", "why"), [(12, 128, "12 rows"), (16, 96, "96 columns")])
def test_shapes_that_do_not_fit(rows, columns, why):
    with pytest.raises(FormatError, match=why):
        LAYOUT.entries(TensorInfo("a.weight", "BF16", (rows, columns)), schemes.get("w4a16_asym"))


@pytest.mark.parametrize("name", ["w4a16", "w8a16", "nvfp4a16", "nf4"])
def test_schemes_that_it_does_not_hold(name):
    assert LAYOUT.supports(schemes.get(name)).refused
