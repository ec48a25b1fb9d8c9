"""A job that follows another tool: scales as that tool has them, and clear refusals."""

import numpy as np
import pytest

import halve
from halve.errors import UnknownNameError, UnsupportedError
from halve.schemes import conform, get
from tiny import llama


@pytest.fixture
def source(tmp_path):
    return llama.write(tmp_path / "source")


@pytest.mark.parametrize("tool", ["compressed-tensors", "modelopt", "torchao"])
def test_scales_and_codes_are_the_tools(source, tmp_path, tool):
    halve.quantize(source, tmp_path / "out", "nvfp4a16", conform=tool)
    tensors, weights = llama.load(tmp_path / "out" / "model.safetensors"), llama.weights()
    followed, block = conform.get(tool), get("nvfp4a16").weight
    names = [f"model.layers.0.self_attn.{part}_proj" for part in "qkv"]
    group = [weights[f"{name}.weight"] for name in names] if followed.fuses else [weights[f"{names[0]}.weight"]]
    amax = max(float(np.abs(w.astype(np.float32)).max()) for w in group)
    scale = followed.tensor_scale(block, amax, group[0].dtype)
    q = followed.quantize(block, group[0], tensor_scale=scale)
    np.testing.assert_array_equal(tensors[f"{names[0]}.weight_scale"].astype(np.float32), q.scales)
    packed = q.codes[:, ::2] | q.codes[:, 1::2] << 4
    np.testing.assert_array_equal(tensors[f"{names[0]}.weight_packed"], packed)
    assert tensors[f"{names[0]}.weight_global_scale"] == np.float32(1 / scale)
    assert halve.verify(tmp_path / "out", against=source).problems == ()


@pytest.mark.parametrize(
    ("scheme", "options", "message"),
    [
        ("mxfp6_e2m3a16", {}, "was not compared"),
        ("nvfp4a16", {"rule": "max"}, "no scale rule"),
        ("nvfp4a16", {"algorithm": "mse"}, "rounding to nearest"),
    ],
)
def test_what_cannot_be_followed(source, tmp_path, scheme, options, message):
    with pytest.raises(UnsupportedError, match=message):
        halve.quantize(source, tmp_path / "out", scheme, conform="modelopt", **options)
    assert not (tmp_path / "out").exists()


def test_unknown_tools_have_near_matches(source, tmp_path):
    with pytest.raises(UnknownNameError) as raised:
        halve.quantize(source, tmp_path / "out", "nvfp4a16", conform="model-opt")
    assert "modelopt" in raised.value.hint
