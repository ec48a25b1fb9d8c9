"""FP8 as transformers makes it, the golden file: read, written again byte for byte, and refused where damaged."""

import hashlib
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import halve
from halve import layouts, schemes
from halve.checkpoint.base import TensorInfo
from halve.errors import CheckpointError, FormatError
from halve.layouts.base import Contents
from halve.schemes import Block
from halve.schemes.quantize import dequantize, quantize
from tiny import folders, llama

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "layouts" / "hf-fp8" / "transformers.json").read_text(encoding="utf-8")
)
LAYOUT = layouts.get("hf-fp8")
MODULE = "model.layers.0.mlp.up_proj"
FP8 = "fp8_e4m3"
BLOCKS = {
    "fp8_block": Block(element=FP8, block_size=(128, 128)),
    "tiles": Block(element=FP8, block_size=(8, 16)),
    "one scale a tensor": Block(element=FP8, block_size="tensor"),
    "tiles under powers of two": Block(element=FP8, scale="e8m0", block_size=(8, 16)),
    "MXFP8": Block(element=FP8, scale="e8m0", block_size=32),
}


def opened(folder, case, change=None, **config):
    """A case as a folder; ``change`` is applied to its tensors, ``config`` to its quantization_config."""
    tensors = folders.tensors(GOLDEN[case]["tensors"])
    if change:
        change(tensors)
    return folders.write(folder, {"quantization_config": GOLDEN[case]["quantization_config"] | config}, tensors)


def digest(checkpoint, stored):
    values = dequantize(LAYOUT.read(checkpoint, stored, 0, stored.shape[0]))
    return hashlib.sha256(values.astype(ml_dtypes.bfloat16).tobytes()).hexdigest()


def rename(**names):
    """Call the tensors ``<module>.<old>`` ``<module>.<new>``."""

    def change(tensors):
        for old, new in names.items():
            tensors[f"{MODULE}.{new}"] = tensors.pop(f"{MODULE}.{old}")

    return change


@pytest.mark.parametrize("case", GOLDEN)
def test_values_are_transformers(tmp_path, case):
    checkpoint = opened(tmp_path, case)
    assert layouts.detect(checkpoint) is LAYOUT
    (stored,) = LAYOUT.open(checkpoint).values()
    assert (stored.name, stored.block) == (f"{MODULE}.weight", BLOCKS[case])
    assert stored.scheme.name == {"fp8_block": "fp8_block", "MXFP8": "mxfp8"}.get(case, "")
    assert set(stored.entries) == set(checkpoint.tensors)
    assert digest(checkpoint, stored) == GOLDEN[case]["sha256"]
    assert LAYOUT.input_scale(checkpoint, stored) is None


def test_what_is_read_is_written_byte_for_byte(tmp_path):
    checkpoint = opened(tmp_path, "fp8_block")
    (stored,) = LAYOUT.open(checkpoint).values()
    weight = TensorInfo(stored.name, "BF16", stored.shape)
    again = folders.pieces(LAYOUT, weight, stored.scheme, [(0, LAYOUT.read(checkpoint, stored, 0, 128))])
    assert {n: (d, list(s), b) for n, (d, s, b) in again.items()} == folders.tensors(GOLDEN["fp8_block"]["tensors"])
    config = LAYOUT.config(Contents({}, {}, {MODULE: stored.scheme}, ["lm_head"]))["quantization_config"]
    assert config == GOLDEN["fp8_block"]["quantization_config"] | {"fmt": "e4m3"}


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_scales_of_16_bits_are_read(tmp_path, dtype):
    """Qwen3's are BF16."""
    name = f"{MODULE}.weight_scale_inv"
    number = {"BF16": ml_dtypes.bfloat16, "F16": np.float16}[dtype]
    scales = np.linspace(0.1, 0.9, 6).astype(number)
    checkpoint = opened(tmp_path, "tiles", lambda t: t.update({name: (dtype, [2, 3], scales.tobytes())}))
    (stored,) = LAYOUT.open(checkpoint).values()
    q = LAYOUT.read(checkpoint, stored, 0, 16)
    np.testing.assert_array_equal(q.scales, scales.reshape(2, 3).astype(np.float32))


def test_bf16_scales_are_still_fp8_block(tmp_path):
    scale = np.array([[0.5]], ml_dtypes.bfloat16).tobytes()
    name = f"{MODULE}.weight_scale_inv"
    checkpoint = opened(tmp_path, "fp8_block", lambda t: t.update({name: ("BF16", [1, 1], scale)}))
    (stored,) = LAYOUT.open(checkpoint).values()
    assert stored.scheme.name == "fp8_block"
    assert LAYOUT.bind(stored.scheme, "BF16") == schemes.get("fp8_block")


@pytest.mark.parametrize("scale", ["weight_scale", "weight_scale_inv"])
@pytest.mark.parametrize("inputs", ["input_scale", "activation_scale"])
@pytest.mark.parametrize("shape", [[], [1]])
def test_one_scale_a_tensor_with_static_activations(tmp_path, scale, inputs, shape):
    def change(tensors):
        dtype, _, data = tensors.pop(f"{MODULE}.weight_scale_inv")
        tensors[f"{MODULE}.{scale}"] = dtype, shape, data
        tensors[f"{MODULE}.{inputs}"] = "F32", shape, np.float32(0.125).tobytes()

    checkpoint = opened(tmp_path, "one scale a tensor", change, activation_scheme="static")
    (stored,) = LAYOUT.open(checkpoint).values()
    assert stored.scheme.activation_static
    assert stored.scheme.activation == Block(element=FP8, block_size="tensor")
    assert LAYOUT.input_scale(checkpoint, stored) == 0.125
    assert set(stored.entries) == set(checkpoint.tensors)
    assert digest(checkpoint, stored) == GOLDEN["one scale a tensor"]["sha256"]


def test_one_scale_for_many_bands(tmp_path):
    w = np.random.default_rng(0).normal(size=(300, 64)).astype(np.float32)
    q = quantize(BLOCKS["one scale a tensor"], w)
    tensors = {
        "a.weight": ("F8_E4M3", [300, 64], q.codes.tobytes()),
        "a.weight_scale": ("F32", [], q.scales.tobytes()),
    }
    config = {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic"}}
    checkpoint = folders.write(tmp_path, config, tensors)
    (stored,) = LAYOUT.open(checkpoint).values()
    parts = [dequantize(LAYOUT.read(checkpoint, stored, a, b)) for a, b in ((0, 128), (128, 256), (256, 300))]
    np.testing.assert_array_equal(np.concatenate(parts), dequantize(q))


@pytest.mark.parametrize("scheme", ["fp8_dynamic", "mxfp8", "w8a8", "nvfp4a16", "bf16"])
def test_other_schemes_are_refused(scheme):
    assert "fp8_block" in LAYOUT.supports(schemes.get(scheme)).refused


def test_tiles_of_another_activation_are_refused():
    weights_only = schemes.find(BLOCKS["fp8_block"])
    assert "activations" in LAYOUT.supports(weights_only).refused


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        ((128, 192), "192 columns"),
        ((192, 128), "tiles of 96"),
        ((300, 128), "tiles of 100"),
        ((160, 128), "tiles of 80"),
    ],
)
def test_shapes_that_readers_get_wrong_are_refused(shape, what):
    with pytest.raises(FormatError, match=what):
        LAYOUT.entries(TensorInfo("a.weight", "BF16", shape), schemes.get("fp8_block"))


@pytest.mark.parametrize("rows", [64, 128, 256, 320, 576])
def test_other_rows_are_fine(rows):
    """576 are kv_a_proj_with_mqa of DeepSeek-V3: transformers refuses to dequantize them, and GPUs run them."""
    _, scales = LAYOUT.entries(TensorInfo("a.weight", "BF16", (rows, 256)), schemes.get("fp8_block"))
    assert scales.shape == (-(-rows // 128), 2)


@pytest.mark.parametrize("case", GOLDEN)
def test_a_missing_tensor_is_named(tmp_path, case):
    for name in GOLDEN[case]["tensors"]:
        with pytest.raises(CheckpointError, match=MODULE):
            LAYOUT.open(opened(tmp_path, case, lambda t, name=name: t.pop(name)))


def test_a_missing_scale_of_inputs_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=f"{MODULE}.input_scale"):
        LAYOUT.open(opened(tmp_path, "one scale a tensor", activation_scheme="static"))


def _set(name, value):
    return lambda tensors: tensors.update({f"{MODULE}.{name}": value})


@pytest.mark.parametrize(
    ("case", "change", "what"),
    [
        ("tiles", _set("weight", ("BF16", [16, 48], bytes(1536))), "BF16"),
        ("tiles", _set("weight", ("F8_E4M3", [768], bytes(768))), r"\[768\]"),
        ("tiles", _set("weight_scale_inv", ("F32", [3, 2], bytes(24))), r"\[3, 2\]"),
        ("tiles", _set("weight_scale_inv", ("F32", [], bytes(4))), r"is \[\]"),
        ("tiles", _set("weight_scale_inv", ("I32", [2, 3], bytes(24))), "I32"),
        ("MXFP8", _set("weight", ("F8_E4M3", [4, 90], bytes(360))), r"\[4, 90\]"),
        ("one scale a tensor", _set("weight_scale_inv", ("F32", [16], bytes(64))), r"\[16\]"),
    ],
)
def test_contradictions_are_named(tmp_path, case, change, what):
    with pytest.raises(CheckpointError, match=what) as raised:
        LAYOUT.open(opened(tmp_path, case, change))
    assert MODULE in str(raised.value)


def test_a_vector_of_input_scales_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="input_scale"):
        LAYOUT.open(
            opened(
                tmp_path, "one scale a tensor", _set("input_scale", ("F32", [2], bytes(8))), activation_scheme="static"
            )
        )


@pytest.mark.parametrize(
    "config",
    [
        {"activation_scheme": None},
        {"activation_scheme": "per token"},
        {"activation_scheme": "static"},  # with tiles: vLLM refuses it
        {"weight_block_size": 128},
        {"weight_block_size": [128]},
        {"weight_block_size": [0, 128]},
        {"weight_block_size": [-8, -16]},
        {"weight_block_size": ["8", "16"]},
    ],
)
def test_a_damaged_config_is_an_error(tmp_path, config):
    with pytest.raises(CheckpointError, match="method fp8"):
        LAYOUT.open(opened(tmp_path, "tiles", **config))


def test_another_tile_than_the_tensors_have_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"\[\[1, 2\]\]"):
        LAYOUT.open(opened(tmp_path, "tiles", weight_block_size=[16, 32]))


def test_through_the_whole_job_and_into_another_layout(tmp_path):
    source = llama.write(tmp_path / "source")
    halve.quantize(source, tmp_path / "q", "fp8_block", layout="hf-fp8")
    assert halve.verify(tmp_path / "q", against=source).ok
    result = halve.convert(tmp_path / "q", tmp_path / "other", "modelopt")
    assert (result.losses, result.dequantized) == ((), ())
    back = halve.convert(tmp_path / "other", tmp_path / "back", "hf-fp8")
    assert back.losses == ()
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("q", "back")]
    assert files[0] == files[1]
