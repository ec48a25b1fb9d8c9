"""Statistics are those of the inputs that layers really have, and files of another kind, or model, are refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import halve
from halve.checkpoint.source import open_checkpoint
from halve.errors import CheckpointError, OutputError, UnsupportedError
from halve.evaluate.builtin import builtin
from halve.evaluate.text import default
from halve.models.fused import fused_group
from halve.pipeline.calibrate import calibrate
from halve.pipeline.quantize import quantize
from halve.pipeline.statistics import KIND, StatisticsFile
from tiny import llama, speaker

DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("calibrate")
    source = speaker.write(root / "source")
    (root / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 100)
    result = calibrate(source, root / "stats.safetensors", texts=[str(root / "text.txt")], windows=3, window=32)
    return source, root, result


def observed(source, text):
    """Inputs of every linear layer over the same windows, from the whole model."""
    model = halve.load(source)
    tokens = model.tokenizer.encode(text, special=False)[: 3 * 32].reshape(3, 32)
    seen = {}
    model.observe = lambda name, inputs, _: seen.setdefault(name, []).append(inputs.copy())
    for window in tokens:
        model.logits(window)
    return {name: np.concatenate(parts) for name, parts in seen.items() if name != "lm_head"}


def test_they_are_the_moments_of_the_inputs(made):
    source, root, result = made
    file = StatisticsFile(result.path)
    for name, x in observed(source, (root / "text.txt").read_text()).items():
        found = file.of(f"{name}.weight", x.shape[1])
        assert found.count == len(x) == 96
        np.testing.assert_allclose(found.mean_square, np.square(x.astype(np.float64)).mean(0), rtol=1e-4, err_msg=name)
        np.testing.assert_allclose(found.amax, np.abs(x).max(0), rtol=1e-4, err_msg=name)
        np.testing.assert_allclose(found.hessian, x.T @ x / len(x), rtol=1e-3, atol=1e-5, err_msg=name)


def test_layers_with_one_input_share_them(made):
    names = set(load_file(made[2].path))
    assert {n.rpartition(".")[2] for n in names} == {"mean_square", "amax", "hessian", "kv_amax"}
    assert "model.layers.0.self_attn.qkv_proj.mean_square" in names
    assert not any("q_proj." in name for name in names if "qkv" not in name)
    assert fused_group("model.layers.0.self_attn.k_proj.weight") == "model.layers.0.self_attn.qkv_proj"


def test_the_result_renders(made):
    result = made[2]
    assert json.loads(json.dumps(result.to_json()))["tokens"] == 96
    assert "text.txt (96 tokens)" in dict(result.facts_told())["texts"]
    assert "<table>" in result._repr_html_()


def test_it_is_reproducible(made, tmp_path):
    source, root, result = made
    calibrate(source, tmp_path / "again", texts=[str(root / "text.txt")], windows=3, window=32)
    assert (tmp_path / "again").read_bytes() == result.path.read_bytes()


def test_without_hessians(made, tmp_path):
    calibrate(made[0], tmp_path / "s", texts=[str(made[1] / "text.txt")], windows=1, window=32, hessians=False)
    file = StatisticsFile(tmp_path / "s")
    assert not file.hessians
    assert file.of(DOWN, load_columns(made[0])).hessian is None


def load_columns(source):
    checkpoint = open_checkpoint(source)
    columns = checkpoint.tensors[DOWN].columns
    checkpoint.close()
    return columns


def test_progress_is_told(made, tmp_path):
    told = []
    calibrate(
        made[0],
        tmp_path / "s",
        texts=[str(made[1] / "text.txt")],
        windows=1,
        window=32,
        progress=lambda *a: told.append(a),
    )
    assert told[0][1:] == (0, 2)
    assert told[-1][1:] == (2, 2)


def test_keys_and_values_get_scales(made, tmp_path):
    source, _, result = made
    quantize(source, tmp_path / "a", "fp8_dynamic", stats=result.path, algorithm="rtn", kv="fp8")
    tensors = llama.load(tmp_path / "a" / "model.safetensors")
    amax = StatisticsFile(result.path).kv_amax()["model.layers.1.self_attn"]
    for which, largest in zip("kv", amax, strict=True):
        assert tensors[f"model.layers.1.self_attn.{which}_scale"] == np.float32(largest) / np.float32(448)
    config = json.loads((tmp_path / "a" / "config.json").read_text())["quantization_config"]
    assert config["kv_cache_scheme"]["num_bits"] == 8
    assert halve.verify(tmp_path / "a", against=source).problems == ()
    found = halve.evaluate(tmp_path / "a", texts=[made[1] / "text.txt"], windows=1, window=32, kv="fp8")
    assert "under calibrated scales" in found.losses[1].about


def test_scales_of_keys_need_statistics_and_a_layout_that_has_them(made, tmp_path):
    with pytest.raises(UnsupportedError, match="need the statistics"):
        quantize(made[0], tmp_path / "a", "fp8_dynamic", kv="fp8")
    with pytest.raises(UnsupportedError, match="no place for the scales of keys"):
        quantize(made[0], tmp_path / "a", "mxfp4", layout="quark", stats=made[2].path, algorithm="rtn", kv="fp8")


def test_statistics_of_another_model_are_refused(made, tmp_path):
    other = speaker.write(tmp_path / "other", seed=5)
    with pytest.raises(CheckpointError, match="statistics of another model"):
        quantize(other, tmp_path / "out", "nvfp4", stats=made[2].path, algorithm="rtn")
    assert not (tmp_path / "out").exists()


def test_a_cast_is_the_same_model(made, tmp_path):
    halve.quantize(made[0], tmp_path / "fp32", "fp32")
    checkpoint = open_checkpoint(tmp_path / "fp32")
    StatisticsFile(made[2].path).check(checkpoint)
    checkpoint.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": 0}, "at least one window"),
        ({"window": 4}, "8 tokens or more"),
        ({"window": 5000}, "fewer than a window"),
        ({"texts": ["missing.txt"]}, "missing.txt"),
    ],
)
def test_requests_that_make_no_sense(made, tmp_path, options, message):
    with pytest.raises(UnsupportedError) as raised:
        calibrate(made[0], tmp_path / "s", **{"texts": [str(made[1] / "text.txt")], **options})
    assert message in f"{raised.value} {raised.value.hint}"
    assert not (tmp_path / "s").exists()


def test_an_empty_text(made, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(UnsupportedError, match="empty.txt is empty"):
        calibrate(made[0], tmp_path / "s", texts=[str(tmp_path / "empty.txt")])


def test_an_existing_file_is_left_alone(made, tmp_path):
    (tmp_path / "s").write_text("mine")
    with pytest.raises(OutputError):
        calibrate(made[0], tmp_path / "s", texts=[str(made[1] / "text.txt")], windows=1, window=32)
    assert (tmp_path / "s").read_text() == "mine"


def damaged(made, tmp_path, change, metadata=None):
    tensors = load_file(made[2].path)
    change(tensors)
    facts = {KIND: json.dumps({"model": "", "tokens": 96, "window": 32, "texts": []})}
    save_file(tensors, tmp_path / "bad", facts if metadata is None else metadata)
    return tmp_path / "bad"


@pytest.mark.parametrize("metadata", [{}, {KIND: "{"}, {KIND: "[]"}, {KIND: '{"model": 1}'}])
def test_a_file_of_another_kind(made, tmp_path, metadata):
    path = damaged(made, tmp_path, lambda _: None, metadata)
    with pytest.raises(CheckpointError, match="holds no statistics"):
        StatisticsFile(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mean_square", np.float32("nan"), "not finite"),
        ("mean_square", np.float32(-1), "negative"),
        ("amax", np.float32("inf"), "not finite"),
    ],
)
def test_numbers_that_are_no_statistics(made, tmp_path, key, value, message):
    def change(tensors):
        tensors[f"model.layers.1.mlp.down_proj.{key}"][3] = value

    file = StatisticsFile(damaged(made, tmp_path, change))
    with pytest.raises(CheckpointError, match=message):
        file.of(DOWN, load_columns(made[0]))


def test_another_shape(made, tmp_path):
    file = StatisticsFile(damaged(made, tmp_path, lambda _: None))
    with pytest.raises(CheckpointError, match="the model needs F32"):
        file.of(DOWN, load_columns(made[0]) + 1)
    assert file.of("model.layers.9.mlp.down_proj.weight", 8) is None


def test_builtin_parts_share_nothing():
    parts = {part: builtin(part) for part in ("calibrate", "pick")}
    first = default().content[:70_000]
    for part, other in (("calibrate", "pick"), ("pick", "calibrate")):
        assert len(parts[part]) == 3
        for text in parts[part]:
            assert len(text.content) > 30_000
            pieces = [text.content[i : i + 200] for i in range(0, len(text.content), 5000)]
            assert not any(piece in unseen.content for piece in pieces for unseen in parts[other])
            assert not any(piece in first for piece in pieces)
