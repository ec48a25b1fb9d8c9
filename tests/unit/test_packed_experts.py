"""Packed experts in jobs: quantized one by one, left whole where that cannot be, and told of either way."""

import json
from contextlib import closing

import ml_dtypes
import numpy as np
import pytest

import halve
from halve import layouts
from halve.checkpoint.hf import HfCheckpoint
from halve.errors import CheckpointError, UnsupportedError
from halve.pipeline.quantize import planned
from tiny import folders

EXPERTS, HIDDEN, INNER = 3, 64, 32
P = "model.layers.0.mlp.experts"
STACKS = (f"{P}.gate_up_proj", f"{P}.down_proj")
ATTENTION = [f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkvo"]


def write(folder, model_type="qwen3_moe", *, dtype="BF16", **others):
    """A layer with packed experts, and a source folder of it."""
    rng = np.random.default_rng(0)
    shapes = dict.fromkeys(ATTENTION, (HIDDEN, HIDDEN)) | {
        STACKS[0]: (EXPERTS, 2 * INNER, HIDDEN),
        STACKS[1]: (EXPERTS, HIDDEN, INNER),
        "model.layers.0.mlp.gate.weight": (EXPERTS, HIDDEN),
    }
    if model_type == "gpt_oss":
        shapes |= {STACKS[0]: (EXPERTS, HIDDEN, 2 * INNER), STACKS[1]: (EXPERTS, INNER, HIDDEN)}
    kind = {"BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn}
    tensors = {}
    for name, shape in (shapes | others).items():
        stored = dtype if name in STACKS else "BF16"
        values = rng.standard_normal(shape).astype(kind[stored])
        tensors[name] = (stored, shape, values.tobytes())
    config = {"model_type": model_type, "hidden_size": HIDDEN, "num_local_experts": EXPERTS}
    folders.write(folder, config, tensors).close()
    return folder


def names(folder):
    with closing(HfCheckpoint(folder)) as checkpoint:
        return set(checkpoint.tensors)


def config_of(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]


@pytest.mark.parametrize("scheme", ["nvfp4a16", "w8a8", "fp8_dynamic"])
def test_every_command_counts_the_same(tmp_path, scheme):
    source, out = write(tmp_path / "source"), tmp_path / "out"
    plan = planned(source, scheme)
    result = halve.quantize(source, out, scheme)
    proof = halve.verify(out, against=source)
    listed = [tensor for tensor in halve.inspect(out).tensors if tensor.quantized]
    dense = halve.convert(out, tmp_path / "dense", "dense")
    assert proof.problems == ()
    assert (
        {len(plan.quantized), len(result.losses), len(proof.losses), len(listed), len(dense.dequantized)}
        == {len(ATTENTION) + 3 * EXPERTS}
    )  # fmt: skip
    assert plan.file_bytes() == result.bytes
    assert {f"{P}.{e}.{part}_proj.weight" for e in range(EXPERTS) for part in ("gate", "up", "down")} <= names(
        dense.path
    )


def test_threads_and_shards_change_no_byte(tmp_path):
    source = write(tmp_path / "source")
    for name, choices in {"a": {"threads": 1}, "b": {"threads": 4}}.items():
        halve.quantize(source, tmp_path / name, "nvfp4a16", shard_bytes=4000, **choices)
    files = sorted(path.name for path in (tmp_path / "a").glob("*.safetensors"))
    assert len(files) > 3
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_finished_job_is_known_again(tmp_path):
    source, out = write(tmp_path / "source"), tmp_path / "out"
    result = halve.quantize(source, out, "nvfp4a16")
    again = halve.quantize(source, out, "nvfp4a16", resume=True)
    assert again.bytes == result.bytes
    assert len(again.plan.quantized) == len(result.losses)


@pytest.mark.parametrize("ignore", [["re:.*experts"], STACKS])
def test_ignored_stacks_stay_whole(tmp_path, ignore):
    out = tmp_path / "out"
    result = halve.quantize(write(tmp_path / "source"), out, "fp8_dynamic", ignore=ignore)
    assert set(STACKS) <= names(out)
    assert not any("packed experts" in warning for warning in result.warnings)
    assert halve.verify(out, against=tmp_path / "source").problems == ()
    assert {P, f"{P}.0.gate_proj", f"{P}.0.up_proj", f"{P}.2.down_proj"} <= set(config_of(out)["ignore"])


@pytest.mark.parametrize("ignore", [f"{P}.1.down_proj", r"re:.*experts\.1\."])
def test_single_experts_may_be_ignored(tmp_path, ignore):
    halve.quantize(write(tmp_path / "source"), tmp_path / "out", "fp8_dynamic", ignore=[ignore])
    found = names(tmp_path / "out")
    assert f"{P}.1.down_proj.weight_scale" not in found
    assert {f"{P}.1.down_proj.weight", f"{P}.0.down_proj.weight_scale"} <= found
    assert halve.verify(tmp_path / "out", against=tmp_path / "source").problems == ()


def test_experts_of_an_unknown_architecture_stay_and_it_says_so(tmp_path):
    result = halve.quantize(write(tmp_path / "source", "mystery"), tmp_path / "out", "fp8_dynamic")
    (said,) = [warning for warning in result.warnings if "packed experts" in warning]
    assert said.startswith(f"{STACKS[0]} and 1 more hold packed experts and stay as they are")
    assert "mystery" in said
    assert set(STACKS) <= names(tmp_path / "out")
    assert P in config_of(tmp_path / "out")["ignore"]
    assert halve.verify(tmp_path / "out", against=tmp_path / "source").problems == ()


def test_experts_that_engines_read_whole_stay_where_the_layout_splits_them(tmp_path):
    source = write(tmp_path / "source", "gpt_oss")
    result = halve.quantize(source, tmp_path / "out", "fp8_dynamic")
    (said,) = [warning for warning in result.warnings if "packed experts" in warning]
    assert "Use --layout gpt-oss-mxfp4 or quark" in said
    assert set(STACKS) <= names(tmp_path / "out")


@pytest.mark.parametrize("layout", ["gpt-oss-mxfp4", "quark"])
def test_experts_that_engines_read_whole(tmp_path, layout):
    assert layouts.get(layout).whole_experts
    source = write(tmp_path / "source", "gpt_oss")
    result = halve.quantize(source, tmp_path / "out", "mxfp4a16", layout=layout)
    found = names(tmp_path / "out")
    assert (f"{STACKS[0]}_blocks" if layout != "quark" else f"{P}.2.gate_up_proj.weight_scale") in found
    assert not any("packed experts" in warning for warning in result.warnings)
    assert halve.verify(tmp_path / "out", against=source).problems == ()


def test_casts_leave_stacks_whole(tmp_path):
    halve.quantize(write(tmp_path / "source"), tmp_path / "out", "fp16")
    assert set(STACKS) <= names(tmp_path / "out")
    assert halve.verify(tmp_path / "out", against=tmp_path / "source").problems == ()


# --- what goes wrong ---


def test_stacks_of_codes_are_no_experts_to_quantize(tmp_path):
    halve.quantize(write(tmp_path / "source", dtype="F8_E4M3"), tmp_path / "out", "w8a8")
    assert set(STACKS) <= names(tmp_path / "out")


def test_an_expert_that_is_there_twice(tmp_path):
    source = write(tmp_path / "source", **{f"{P}.0.up_proj.weight": (INNER, HIDDEN)})
    with pytest.raises(CheckpointError, match="is there by itself and as a part of"):
        halve.quantize(source, tmp_path / "out", "fp8_dynamic")
    assert not (tmp_path / "out").exists()


def test_a_stack_of_another_models_size(tmp_path):
    source = write(tmp_path / "source", **{STACKS[1]: (EXPERTS, HIDDEN + 4, INNER)})
    with pytest.raises(CheckpointError, match=rf"down_proj is \[{EXPERTS}, {HIDDEN + 4}, {INNER}\]: no experts of"):
        halve.quantize(source, tmp_path / "out", "fp8_dynamic")


def test_a_quantized_source_is_refused_before_its_stacks_are_looked_at(tmp_path):
    source = write(tmp_path / "source", **{STACKS[1]: (EXPERTS, 7, 5)})
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "mystery"}}))
    with pytest.raises(UnsupportedError, match="already quantized"):
        halve.quantize(source, tmp_path / "out", "fp8_dynamic")
