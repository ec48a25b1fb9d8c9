"""The main job end to end on a tiny checkpoint: what comes out, that it never varies, that nothing is left behind."""

import errno
import hashlib
import json
import os

import ml_dtypes
import numpy as np
import pytest

import halve
from halve import layouts
from halve.errors import FormatError, OutputError, RecipeError, UnknownNameError, UnsupportedError
from halve.pipeline import workers
from halve.pipeline.plan import default_layout
from halve.pipeline.workspace import Workspace
from halve.schemes import SCHEMES, get
from halve.schemes.quantize import dequantize, quantize
from tiny import llama

WRITABLE = [s.name for s in SCHEMES.values() if not s.needs_calibration and default_layout(s) != "gguf"]


@pytest.fixture
def source(tmp_path):
    return llama.write(tmp_path / "source")


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("scheme", WRITABLE)
def test_every_scheme_is_written_and_verified(source, tmp_path, scheme):
    result = halve.quantize(source, tmp_path / "out", scheme)
    assert result.bytes == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert result.plan.recipe.layout == default_layout(get(scheme))
    proof = halve.verify(tmp_path / "out", against=source)
    assert proof.problems == ()
    assert proof.hashed
    assert proof.scheme == scheme
    if scheme != "bf16":
        assert len(proof.losses) == (len(llama.weights()) if scheme in ("fp32", "fp16") else 7 * llama.LAYERS)


def test_parts_of_a_fused_layer_in_other_schemes_share_no_scale(source, tmp_path):
    halve.quantize(source, tmp_path / "out", "nvfp4a16", overrides=[("re:.*q_proj", "fp8_dynamic")])
    tensors = llama.load(tmp_path / "out" / "model.safetensors")
    weights = llama.weights()
    amax = max(np.abs(weights[f"model.layers.0.self_attn.{p}_proj.weight"].astype(np.float32)).max() for p in "kv")
    for part in "kv":
        divisor = tensors[f"model.layers.0.self_attn.{part}_proj.weight_global_scale"][0]
        assert divisor == pytest.approx(2688 / amax, rel=1e-6)
    assert "model.layers.0.self_attn.q_proj.weight_global_scale" not in tensors
    assert halve.verify(tmp_path / "out", against=source).problems == ()


def test_weights_are_those_of_the_quantizer(source, tmp_path):
    halve.quantize(source, tmp_path / "out", "fp8_dynamic")
    tensors = llama.load(tmp_path / "out" / "model.safetensors")
    name = "model.layers.1.mlp.down_proj"
    block = layouts.get("compressed-tensors").bind(get("fp8_dynamic"), "BF16").weight
    q = quantize(block, llama.weights()[f"{name}.weight"])
    np.testing.assert_array_equal(tensors[f"{name}.weight"].view(np.uint8), q.codes)
    np.testing.assert_array_equal(tensors[f"{name}.weight_scale"].astype(np.float32), q.scales)
    assert tensors["model.embed_tokens.weight"].tobytes() == llama.weights()["model.embed_tokens.weight"].tobytes()


def test_fused_layers_share_the_tensor_scale_of_the_largest(source, tmp_path):
    halve.quantize(source, tmp_path / "out", "nvfp4a16")
    tensors = llama.load(tmp_path / "out" / "model.safetensors")

    def divisor(part):
        return float(tensors[f"model.layers.0.{part}.weight_global_scale"][0])

    assert divisor("self_attn.q_proj") == divisor("self_attn.k_proj") == divisor("self_attn.v_proj")
    assert divisor("mlp.gate_proj") == divisor("mlp.up_proj") != divisor("mlp.down_proj")
    weights = llama.weights()
    amax = max(np.abs(weights[f"model.layers.0.self_attn.{p}_proj.weight"].astype(np.float32)).max() for p in "qkv")
    assert divisor("self_attn.q_proj") == pytest.approx(2688 / amax, rel=3e-7)


@pytest.mark.parametrize("scheme", ["nvfp4a16", "w4a16_asym", "fp8_block"])
def test_bytes_do_not_depend_on_threads_bands_or_sharding_of_the_source(source, tmp_path, monkeypatch, scheme):
    halve.quantize(source, tmp_path / "one", scheme, threads=1)
    monkeypatch.setattr(workers, "BAND_BYTES", 4096)
    halve.quantize(source, tmp_path / "many", scheme, threads=4)
    assert digests(tmp_path / "one") == digests(tmp_path / "many")
    halve.quantize(llama.write(tmp_path / "sharded" / "source", shards=3), tmp_path / "from_shards", scheme)
    one, other = (
        llama.load(tmp_path / "one" / "model.safetensors"),
        llama.load(tmp_path / "from_shards" / "model.safetensors"),
    )
    assert {n: t.tobytes() for n, t in one.items()} == {n: t.tobytes() for n, t in other.items()}
    hashes = [
        json.loads((tmp_path / folder / "halve.json").read_text())["source"]["sha256"]
        for folder in ("one", "from_shards")
    ]
    assert hashes[0] == hashes[1]


def test_output_is_split_into_shards_with_an_index(source, tmp_path):
    result = halve.quantize(source, tmp_path / "out", "nvfp4a16", shard_bytes=60_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 1
    assert set(index["weight_map"].values()) == set(files)
    assert index["metadata"]["total_size"] == result.plan.nbytes
    assert halve.verify(tmp_path / "out", against=source).ok


@pytest.mark.parametrize("scheme", ["fp8_dynamic", "nvfp4a16"])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_names_tensor_and_index(tmp_path, scheme, poison):
    weights = llama.weights()
    weights["model.layers.1.mlp.up_proj.weight"][200, 7] = poison
    source = llama.write(tmp_path / "source", weights)
    with pytest.raises(FormatError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: .*\[200, 7\]"):
        halve.quantize(source, tmp_path / "out", scheme)
    assert not (tmp_path / "out").exists()


def test_tensors_that_are_not_finite_can_be_kept(tmp_path):
    weights = llama.weights()
    weights["model.layers.1.mlp.up_proj.weight"][200, 7] = np.nan
    source = llama.write(tmp_path / "source", weights)
    result = halve.quantize(source, tmp_path / "out", "nvfp4a16", on_nonfinite="keep")
    kept = {t.source.name: t.why for t in result.plan.tensors if "not finite" in t.why}
    assert set(kept) == {"model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.gate_proj.weight"}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "model.layers.1.mlp.up_proj" in config["quantization_config"]["ignore"]


def test_a_dead_expert_of_zeros_has_a_defined_result(tmp_path):
    weights = llama.weights()
    weights["model.layers.0.mlp.down_proj.weight"][:] = 0
    source = llama.write(tmp_path / "source", weights)
    for scheme in ("nvfp4a16", "mxfp4a16", "fp8_dynamic", "w8a8", "w4a16", "w4a16_asym"):
        halve.quantize(source, tmp_path / scheme, scheme)
        assert halve.verify(tmp_path / scheme, against=source).problems == ()


def test_a_place_that_is_taken_is_left_alone(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        halve.quantize(source, tmp_path / "out", "nvfp4a16")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    with pytest.raises(OutputError):
        halve.quantize(source, tmp_path / "out" / "mine.txt", "nvfp4a16")


def test_an_empty_folder_is_taken_and_left_empty_after_an_error(tmp_path):
    weights = llama.weights()
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = np.nan
    source = llama.write(tmp_path / "source", weights)
    (tmp_path / "out").mkdir()
    with pytest.raises(FormatError):
        halve.quantize(source, tmp_path / "out", "nvfp4a16")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_is_noticed_before_anything_is_read(source, tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match="are needed"):
        halve.quantize(source, tmp_path / "out", "nvfp4a16")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_is_full_from_the_start_leaves_nothing(source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OutputError, match="No space left") as raised:
        halve.quantize(source, tmp_path / "out", "nvfp4a16")
    assert "free some space" in raised.value.hint
    assert not (tmp_path / "out").exists()


def test_an_interrupt_leaves_nothing(source, tmp_path):
    def interrupt(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        halve.quantize(source, tmp_path / "out", "nvfp4a16", progress=interrupt)
    assert not (tmp_path / "out").exists()


def test_progress_ends_at_the_total(source, tmp_path):
    events = []
    halve.quantize(source, tmp_path / "out", "nvfp4a16", progress=events.append)
    assert events[-1].done == events[-1].total == sum(w.nbytes for w in llama.weights().values())
    assert [e.done for e in events] == sorted(e.done for e in events)


def test_an_already_quantized_source_is_refused(source, tmp_path):
    halve.quantize(source, tmp_path / "out", "w8a8")
    with pytest.raises(UnsupportedError, match="already quantized"):
        halve.quantize(tmp_path / "out", tmp_path / "again", "nvfp4a16")


def test_a_modelopt_source_is_refused_too(source, tmp_path):
    (source / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "NVFP4"}}))
    with pytest.raises(UnsupportedError, match="NVFP4"):
        halve.quantize(source, tmp_path / "out", "nvfp4a16")


def test_wrong_names_and_rules(source, tmp_path):
    with pytest.raises(UnknownNameError) as raised:
        halve.quantize(source, tmp_path / "out", "nvpf4a16")
    assert "nvfp4a16" in raised.value.hint
    with pytest.raises(UnsupportedError, match="scale rule"):
        halve.quantize(source, tmp_path / "out", "nvfp4a16", rule="rceil")
    with pytest.raises(RecipeError):
        halve.quantize(source, tmp_path / "out", "nvfp4a16", ignore=["re:*"])


def test_a_source_without_a_tokenizer_is_a_warning(source, tmp_path):
    (source / "tokenizer.json").unlink()
    result = halve.quantize(source, tmp_path / "out", "nvfp4a16")
    assert "no tokenizer" in result.warnings[0]


def test_scale_rules_change_the_result(source, tmp_path):
    for rule in ("floor", "even", "rceil"):
        halve.quantize(source, tmp_path / rule, "mxfp4a16", rule=rule)
    assert len({digests(tmp_path / rule)["model.safetensors"] for rule in ("floor", "even", "rceil")}) == 3


def test_a_float32_source_gives_the_values_of_its_own_type(tmp_path):
    weights = {name: w.astype(np.float32) for name, w in llama.weights().items()}
    source = llama.write(tmp_path / "source", weights)
    halve.quantize(source, tmp_path / "out", "w8a8")
    scale = llama.load(tmp_path / "out" / "model.safetensors")["model.layers.0.mlp.down_proj.weight_scale"]
    assert scale.dtype == np.float32
    assert halve.verify(tmp_path / "out", against=source).ok


def test_dequantized_values_are_near(source, tmp_path):
    w = llama.weights()["model.layers.0.mlp.down_proj.weight"]
    q = quantize(get("nvfp4a16").weight, w)
    error = dequantize(q) - w.astype(np.float32)
    assert np.abs(error).max() <= np.abs(w.astype(np.float32)).max() / 6 + 1e-6
    assert w.dtype == ml_dtypes.bfloat16


def test_vision_modules_are_named_as_kept(tmp_path):
    weights = llama.weights()
    weights["vision_tower.encoder.fc1.weight"] = weights["model.layers.0.mlp.up_proj.weight"].copy()
    halve.quantize(llama.write(tmp_path / "source", weights), tmp_path / "out", "w8a8")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"]["ignore"] == ["vision_tower.encoder.fc1", "lm_head"]


def test_two_jobs_for_one_place_do_not_meet(source, tmp_path):
    with Workspace(tmp_path / "out", {}, resume=False), pytest.raises(OutputError, match="is not empty"):
        halve.quantize(source, tmp_path / "out", "w8a8")
    with Workspace(tmp_path / "out", {}, resume=False), pytest.raises(OutputError, match="another job is writing"):
        halve.quantize(source, tmp_path / "out", "w8a8", resume=True)


def test_a_partly_ignored_fused_layer_and_foreign_code_are_warnings(source, tmp_path):
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling.Model"}}))
    result = halve.quantize(source, tmp_path / "out", "w8a8", ignore=["re:.*q_proj"])
    assert any("auto_map" in warning for warning in result.warnings)
    assert any("self_attn.qkv_proj are ignored and w8a8" in warning for warning in result.warnings)


def test_kept_tensors_that_are_not_finite_are_no_problem_later(tmp_path):
    weights = llama.weights()
    weights["model.layers.1.mlp.up_proj.weight"][200, 7] = np.nan
    source = llama.write(tmp_path / "source", weights)
    halve.quantize(source, tmp_path / "out", "fp8_dynamic", on_nonfinite="keep")
    assert halve.verify(tmp_path / "out", against=source).problems == ()


def test_nothing_but_tensors_that_are_not_finite_is_an_error(tmp_path):
    weights = llama.weights()
    for name in weights:
        if name.endswith("_proj.weight"):
            weights[name][0, 0] = np.inf
    with pytest.raises(RecipeError, match="every tensor"):
        halve.quantize(llama.write(tmp_path / "source", weights), tmp_path / "out", "w8a8", on_nonfinite="keep")
    assert not (tmp_path / "out").exists()


def test_empty_tensors_are_no_obstacle(tmp_path):
    weights = {"model.layers.0.mlp.up_proj.weight": np.zeros((0, 128), np.float32)}
    result = halve.quantize(llama.write(tmp_path / "source", weights), tmp_path / "out", "w8a8")
    assert dict(result.facts())["tensors"].startswith("1 tensors")
