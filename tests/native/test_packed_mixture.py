"""Experts of packed models against the reference runtime; test_packed_model has what they share with other models."""

import numpy as np
import pytest

import halve
from halve.errors import CheckpointError
from halve.runtime.load import load as load_reference
from halve.runtime.packed import kernels
from halve.runtime.packed.load import load, load_quickest
from halve.runtime.packed.model import PackedModel
from native.test_packed_model import SIZES, assert_close, checkpoint, expected_logits, isa
from tiny import families, llama

__all__ = ["checkpoint", "isa"]  # fixtures


@pytest.mark.parametrize("mode", ["bf16", "int8"])
@pytest.mark.parametrize("scheme", ["nvfp4a16", "w4a16_asym"])
def test_quantized_experts(checkpoint, tmp_path, scheme, mode):
    source = checkpoint("qwen3_moe_mixed", intermediate_size=64, moe_intermediate_size=64)
    out = tmp_path / "quantized"
    halve.quantize(source, out, scheme=scheme)
    model = load(out, mode=mode, threads=1)
    tokens = llama.decoder_tokens(model.config)
    cache, exact = model.new_cache(), load(out, mode="exact", threads=1).logits(tokens)
    steps = np.concatenate([model.logits(token, cache) for token in np.split(tokens, len(tokens))])
    assert_close(exact, expected_logits(out, tokens))
    lost = {name: np.abs(expected_logits(out, tokens, name) - exact).mean() for name in ("bf16", mode)}
    assert np.abs(steps - expected_logits(out, tokens, mode)).mean() < 0.5 * lost[mode]
    assert np.abs(model.logits(tokens) - exact).mean() < 2 * lost["bf16"]


@pytest.mark.parametrize("limit", [0.25, 7.0])
def test_gpt_oss_as_published(tmp_path, limit):
    """Its experts in MXFP4, gate and up clamped."""
    config = families.config_of("gpt_oss", **SIZES, swiglu_limit=limit)
    path = families.write_mxfp4(tmp_path / "published", config, families.weights(config))
    model = load(path, mode="exact", threads=1)
    assert model.blocks["model.layers.1.mlp.experts.3.down_proj.weight"].element == "fp4_e2m1"
    tokens = llama.decoder_tokens(config)
    assert_close(model.logits(tokens), expected_logits(path, tokens))


def test_experts_in_one_tensor(tmp_path):
    """As transformers 5 writes them."""
    config = families.config_of("qwen3_moe", **SIZES)
    tensors = families.weights(config)
    alone = load(families.write(tmp_path / "alone", config, tensors), threads=1)
    stacked = load(families.write(tmp_path / "stacked", config, families.stacked(config, tensors)), threads=1)
    tokens = llama.decoder_tokens(config)
    np.testing.assert_array_equal(stacked.logits(tokens), alone.logits(tokens))


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_of_equal_scores_the_first(tmp_path, name):
    config = families.config_of(name, **SIZES)
    tensors = families.weights(config)
    for tensor in filter(lambda tensor: ".mlp.gate." in tensor or ".mlp.router." in tensor, tensors):
        tensors[tensor] *= 0
    whole = families.stacked(config, tensors) if name == "gpt_oss" else tensors
    path = families.write(tmp_path / name, config, whole)
    tokens = llama.decoder_tokens(config)
    assert_close(load(path, mode="exact", threads=1).logits(tokens), expected_logits(path, tokens))


@pytest.mark.parametrize("chosen", [1, 6])
@pytest.mark.parametrize("normalized", [True, False])
def test_as_many_experts_as_config_says(checkpoint, chosen, normalized):
    path = checkpoint("qwen3_moe", num_experts_per_tok=chosen, norm_topk_prob=normalized)
    tokens = llama.decoder_tokens(load_reference(path).config, 300)[:50]
    assert_close(load(path, mode="exact", threads=1).logits(tokens), expected_logits(path, tokens))


def test_bytes_that_a_token_reads(checkpoint):
    """Of the experts, as many as it takes."""
    bytes_of = {n: load(checkpoint("qwen3_moe", num_experts_per_tok=n), threads=1).nbytes for n in (1, 2, 6)}
    expert = (bytes_of[6] - bytes_of[1]) / 5
    assert bytes_of[2] == bytes_of[1] + expert
    assert expert >= 4 * 3 * (3 * 24 * 64)  # layers, of float32 matrices


def test_a_router_of_no_numbers(tmp_path):
    config = families.config_of("gpt_oss", **SIZES)
    tensors = families.stacked(config, families.weights(config))
    tensors["model.layers.1.mlp.router.bias"][:] = np.nan
    model = load(families.write(tmp_path / "damaged", config, tensors), threads=2)
    for count in (1, 40):
        with pytest.raises(CheckpointError, match="logits are not finite"):
            model.logits(llama.decoder_tokens(config)[:count])


def test_they_run_on_the_packed_path(checkpoint):
    for name in ("qwen3_moe", "gpt_oss"):
        assert isinstance(load_quickest(checkpoint(name)), PackedModel)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"experts_per_token": 0}, "cannot be chosen"),
        ({"experts_per_token": 7}, "cannot be chosen"),
        ({"expert_intermediate": 32}, "gate is"),
        ({"experts": 5}, "router is"),
    ],
    ids=str,
)
def test_the_border(checkpoint, monkeypatch, told, said):
    """Native code takes no experts of other sizes than it has been told."""
    native = kernels.native.Decoder
    monkeypatch.setattr(kernels.native, "Decoder", lambda *args, **settings: native(*args, **settings | told))
    with pytest.raises(ValueError, match=said):
        load(checkpoint("qwen3_moe"), threads=1)
