"""The reference runtime: transformers' logits, the cache, hooks, and every kind of checkpoint."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import halve
from halve import layouts
from halve.checkpoint.base import read_array
from halve.checkpoint.source import open_checkpoint
from halve.runtime import attention
from halve.runtime.load import load
from halve.schemes.quantize import dequantize
from tiny import families, llama
from tiny.gguf_models import TinyModel

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "runtime" / "logits.npz")
CLOSE = 1e-4  # of logits up to 14; 1.5e-5 is what the order of float32 sums makes
RELATIVE = 1.5e-5  # of the largest logit; 3.4e-6 is what the order of float32 sums makes


@pytest.fixture
def decoder(tmp_path):
    def make(name, **changes):
        return load(families.write(tmp_path / name, families.config_of(name, **changes)))

    return make


def assert_close(logits, name, rows=slice(None)):
    """``logits`` are those rows of what transformers computes."""
    bound = RELATIVE * np.abs(GOLDEN[name]).max()
    np.testing.assert_allclose(logits, GOLDEN[name][rows], rtol=0, atol=bound)


@pytest.mark.parametrize("name", families.DECODERS)
def test_logits_are_transformers(decoder, name):
    model = decoder(name)
    tokens = llama.decoder_tokens(model.config)
    logits = model.logits(tokens)
    assert logits.dtype == np.float32
    assert_close(logits, name)
    np.testing.assert_array_equal(logits, model.logits(tokens))  # a second time: no state is left


@pytest.mark.parametrize("name", families.DECODERS.keys() - {"phi3_long"})
@pytest.mark.parametrize("sizes", [[1] * 40, [7, 33], [39, 1]], ids=str)
def test_a_cache_changes_nothing(decoder, name, sizes):
    model = decoder(name)
    tokens, cache = llama.decoder_tokens(model.config), model.new_cache()
    parts = [model.logits(part, cache) for part in np.split(tokens, np.cumsum(sizes)[:-1])]
    assert_close(np.concatenate(parts), name)
    assert cache.tokens == tokens.tolist()


@pytest.mark.parametrize("sizes", [[1] * 40, [16, 24], [17, 23], [3, 36, 1]], ids=str)
def test_a_text_that_becomes_long_is_read_again(decoder, sizes):
    """From 17 tokens on LongRoPE rotates otherwise, from the first token on."""
    model = decoder("phi3_long")
    tokens, cache = llama.decoder_tokens(model.config), model.new_cache()
    parts = [model.logits(part, cache) for part in np.split(tokens, np.cumsum(sizes)[:-1])]
    assert_close(parts[-1][-1:], "phi3_long", slice(39, 40))
    assert cache.tokens == tokens.tolist()
    short = model.logits(tokens[:9])
    assert np.abs(short - GOLDEN["phi3_long"][:9]).max() > 0.01
    assert cache.keep(tokens[:8].tolist()) == 8  # and short again
    np.testing.assert_allclose(model.logits(tokens[8:9], cache), short[8:], rtol=0, atol=CLOSE)
    assert cache.tokens == tokens[:9].tolist()
    assert_close(model.logits(tokens[9:], cache, start=1), "phi3_long", slice(10, 40))


@pytest.mark.parametrize("old", ["su", "yarn"])
def test_old_names_of_longrope(decoder, old):
    """Phi-3's first configs."""
    name = "phi3_short"
    model = decoder(name, rope_scaling=families.DECODERS[name]["rope_scaling"] | {"type": old})
    assert_close(model.logits(llama.decoder_tokens(model.config)), name)


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2_window", "qwen3", "gemma2", "gemma3", "phi3", "gpt_oss"])
@pytest.mark.parametrize("block", [1, 5, 16, 39])
def test_blocks_of_queries_change_nothing(decoder, monkeypatch, name, block):
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    model = decoder(name)
    tokens, cache = llama.decoder_tokens(model.config), model.new_cache()
    assert_close(model.logits(tokens), name)
    later = [model.logits(part, cache) for part in np.split(tokens, [11])][1]
    assert_close(later, name, slice(11, None))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama", {"rope_theta": 10000.0}),
        ("llama", {"rms_norm_eps": 0.1}),
        ("llama_rope_llama3", {"rope_parameters": {"rope_type": "default"}}),
        ("llama_rope_linear", {"rope_scaling": None}),
        ("mistral", {"sliding_window": 8}),
        ("qwen2_window", {"max_window_layers": 2}),
        ("llama_rope_yarn", {"rope_scaling": None}),
        ("llama_rope_yarn", {"rope_scaling": llama.YARN | {"attention_factor": 1.0}}),
        ("llama_rope_yarn", {"rope_scaling": llama.YARN | {"beta_slow": 0.2}}),
        ("llama_rope_yarn", {"rope_scaling": llama.YARN | {"truncate": False}}),
        ("llama_rope_yarn", {"rope_scaling": llama.YARN | {"original_max_position_embeddings": 64}}),
        ("qwen2_rope_yarn", {"rope_parameters": llama.YARN | {"rope_theta": 1000.0, "beta_fast": 8}}),
        ("gemma2", {"attn_logit_softcapping": 50.0}),
        ("gemma2", {"final_logit_softcapping": 30.0}),
        ("gemma2", {"query_pre_attn_scalar": 16}),
        ("gemma2", {"sliding_window": 8}),
        ("gemma2", {"layer_types": ["full_attention"] * 3}),
        ("gemma3", {"sliding_window_pattern": 2}),
        ("gemma3", {"rope_local_base_freq": 10000.0}),
        ("gemma3", {"rope_theta": 10000.0}),
        ("gemma3", {"rope_scaling": None}),
        ("gemma3_parameters", {"final_logit_softcapping": None}),
        ("phi3", {"sliding_window": None}),
        ("phi3_partial", {"partial_rotary_factor": None}),
        ("phi3_long", {"original_max_position_embeddings": 48}),
        ("phi3_short", {"rope_scaling": None}),
        ("qwen3_moe", {"norm_topk_prob": False}),
        ("qwen3_moe", {"num_experts_per_tok": 3}),
        ("qwen3_moe_mixed", {"use_sliding_window": False}),
        ("gpt_oss", {"num_experts_per_tok": 1}),
        ("gpt_oss", {"sliding_window": 9}),
        ("gpt_oss", {"rope_scaling": llama.YARN | {"beta_slow": 0.5, "truncate": True}}),
        ("gpt_oss", {"layer_types": ["full_attention"] * 3}),
        ("gpt_oss_default", {"swiglu_limit": 0.1}),
        ("gpt_oss_default", {"rope_theta": 10000.0}),
    ],
)
def test_every_setting_is_heard(decoder, name, change):
    """The golden logits would notice each of them missing."""
    model = decoder(name, **change)
    assert np.abs(model.logits(llama.decoder_tokens(model.config)) - GOLDEN[name]).max() > 0.01


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("gemma2", "model.layers.1.pre_feedforward_layernorm.weight"),
        ("gemma2", "model.layers.1.post_feedforward_layernorm.weight"),
        ("gemma3", "model.layers.1.self_attn.k_norm.weight"),
        ("gpt_oss", "model.layers.1.self_attn.sinks"),
        ("gpt_oss", "model.layers.1.mlp.router.bias"),
        ("gpt_oss", "model.layers.1.mlp.experts.gate_up_proj_bias"),
        ("gpt_oss", "model.layers.1.mlp.experts.down_proj_bias"),
    ],
)
def test_every_vector_is_used(decoder, name, tensor):
    model = decoder(name)
    model.parameters[tensor][:] *= 2
    assert np.abs(model.logits(llama.decoder_tokens(model.config)) - GOLDEN[name]).max() > 0.01


@pytest.mark.parametrize("name", ["qwen3_moe", "qwen3_moe_mixed"])
def test_experts_in_one_tensor(tmp_path, name):
    config = families.config_of(name)
    folder = families.write(tmp_path / name, config, families.stacked(config, families.weights(config)))
    assert "model.layers.0.mlp.experts.gate_up_proj" in load_file(folder / "model.safetensors")
    assert_close(load(folder).logits(llama.decoder_tokens(config)), name)


@pytest.mark.parametrize("name", ["gpt_oss", "gpt_oss_default"])
def test_packed_experts(tmp_path, name):
    """Their values are those of the dense ones, and so are the logits."""
    config = families.config_of(name)
    model = load(families.write_mxfp4(tmp_path / name, config, families.weights(config)))
    tokens = llama.decoder_tokens(config)
    assert_close(model.logits(tokens), name)
    np.testing.assert_array_equal(model.logits(tokens), load(families.write(tmp_path / "dense", config)).logits(tokens))


def test_experts_by_name_that_others_write(tmp_path):
    """gpt-oss as tools leave it that give every expert a tensor of its own."""
    config = families.config_of("gpt_oss")
    folder = families.write(tmp_path / "model", config, families.weights(config))
    assert_close(load(folder).logits(llama.decoder_tokens(config)), "gpt_oss")


@pytest.mark.parametrize("start", [0, 17, 39])
def test_start_leaves_out_the_first_logits(decoder, start):
    model = decoder("qwen2")
    tokens = llama.decoder_tokens(model.config)
    logits = model.logits(tokens, start=start)
    np.testing.assert_allclose(logits, GOLDEN["qwen2"][start:], rtol=0, atol=CLOSE)


def test_layer_types_say_which_layers_look_through_a_window(decoder):
    kinds = ["full_attention", "sliding_attention", "sliding_attention"]
    model = decoder("qwen2_window", max_window_layers=3, layer_types=kinds)
    logits = model.logits(llama.decoder_tokens(model.config))
    np.testing.assert_allclose(logits, GOLDEN["qwen2_window"], rtol=0, atol=CLOSE)


@pytest.mark.parametrize("name", ["gemma3", "phi3", "qwen3_moe", "qwen3_moe_mixed", "gpt_oss"])
def test_observe_sees_all_that_runs(decoder, name):
    model = decoder(name)
    tokens, seen, kv = llama.decoder_tokens(model.config), {}, []

    def observe(linear_name, inputs, outputs):
        linear = model.linears[linear_name]
        wanted = inputs @ linear.weight.T + (0 if linear.bias is None else linear.bias)
        np.testing.assert_allclose(outputs, wanted, rtol=0, atol=CLOSE)
        seen[linear_name] = len(inputs)

    model.observe, model.observe_kv = observe, lambda name, *_: kv.append(name)
    assert_close(model.logits(tokens), name)
    assert list(model.linears) == families.linears(model.config)
    assert kv == [f"model.layers.{layer}.self_attn" for layer in range(3)]
    experts = {n: count for n, count in seen.items() if ".experts." in n}
    assert list(seen) == [n for n in model.linears if n in seen]
    assert all(count == 40 for n, count in seen.items() if n not in experts)
    assert set(model.linears) - set(seen) <= {n for n in model.linears if ".experts." in n}
    downs = [count for n, count in experts.items() if n.endswith("down_proj")]
    assert sum(downs) == 40 * 2 * sum(n.endswith(("mlp.gate", "router")) for n in seen)


@pytest.mark.parametrize("name", ["llama_tied", "llama_biased", "qwen3"])
def test_observe_sees_every_linear_in_order(decoder, name):
    model = decoder(name)
    tokens, seen = llama.decoder_tokens(model.config), []

    def observe(linear_name, inputs, outputs):
        linear = model.linears[linear_name]
        wanted = inputs @ linear.weight.T + (0 if linear.bias is None else linear.bias)
        np.testing.assert_allclose(outputs, wanted, rtol=0, atol=CLOSE)
        seen.append(linear_name)

    model.observe = observe
    np.testing.assert_allclose(model.logits(tokens), GOLDEN[name], rtol=0, atol=CLOSE)
    assert seen == list(model.linears)
    assert seen[:4] == [f"model.layers.0.self_attn.{part}_proj" for part in "qkvo"]
    assert seen[-1] == "lm_head"
    assert [linear.name for linear in model.linears.values() if linear.tied] == ["lm_head"] * (name == "llama_tied")
    assert len(seen) == 7 * 3 + 1


def test_activations_act_on_the_inputs_of_their_linear_alone(decoder):
    model = decoder("llama_biased")
    tokens = llama.decoder_tokens(model.config)
    plain = model.logits(tokens)
    for linear in model.linears.values():
        linear.activation = lambda x: x * np.float32(1)
    np.testing.assert_array_equal(model.logits(tokens), plain)  # the same for all parts: still one product
    observed = {}
    model.observe = lambda name, inputs, outputs: observed.update({name: (inputs, outputs)})
    model.logits(tokens)
    inputs, before = observed["model.layers.2.self_attn.k_proj"]
    model.linears["model.layers.2.self_attn.k_proj"].activation = np.zeros_like
    changed = model.logits(tokens)
    seen, after = observed["model.layers.2.self_attn.k_proj"]
    np.testing.assert_array_equal(seen, inputs)  # as they came
    bias = model.linears["model.layers.2.self_attn.k_proj"].bias
    np.testing.assert_array_equal(after, np.broadcast_to(bias, before.shape))
    assert np.abs(changed - plain).max() > 0.01
    model.observe = None
    np.testing.assert_allclose(model.logits(tokens), changed, rtol=0, atol=CLOSE)


def test_store_is_what_attention_sees(decoder):
    model = decoder("qwen3")
    tokens, shapes = llama.decoder_tokens(model.config), []

    def halved(layer, *pair):
        shapes.extend((layer, stored.shape) for stored in pair)
        return tuple(stored.astype(np.float16).astype(np.float32) for stored in pair)

    once = model.logits(tokens, model.new_cache(halved))
    assert shapes == [(layer, (2, 40, 16)) for layer in range(3) for _ in "kv"]
    assert 1e-4 < np.abs(once - GOLDEN["qwen3"]).max() < 0.1
    cache = model.new_cache(halved)
    steps = [model.logits(tokens[i : i + 1], cache) for i in range(40)]
    # Not equal: where float32 sums differ in their last bit, a rounding to FP16 may differ.
    np.testing.assert_allclose(np.concatenate(steps), once, rtol=0, atol=0.05)


def test_a_cache_forgets_what_differs(decoder):
    model = decoder("mistral")
    tokens, cache = llama.decoder_tokens(model.config), model.new_cache()
    other = tokens.copy()
    other[25:] = (other[25:] + 1) % model.vocabulary
    model.logits(other, cache)
    assert cache.keep(tokens.tolist()) == len(cache) == 25
    np.testing.assert_allclose(model.logits(tokens[25:], cache), GOLDEN["mistral"][25:], rtol=0, atol=CLOSE)


def test_a_pass_that_failed_leaves_the_cache_as_it_was(decoder):
    model = decoder("llama")
    tokens, cache = llama.decoder_tokens(model.config), model.new_cache()
    model.logits(tokens[:10], cache)

    def interrupt(name, inputs, outputs):
        if name == "model.layers.1.mlp.up_proj":
            raise KeyboardInterrupt

    model.observe = interrupt
    with pytest.raises(KeyboardInterrupt):
        model.logits(tokens[10:20], cache)
    model.observe = None
    np.testing.assert_allclose(model.logits(tokens[10:], cache), GOLDEN["llama"][10:], rtol=0, atol=CLOSE)


def test_the_cache_ends_with_the_context(decoder):
    model = decoder("llama")
    cache = model.new_cache()
    model.logits(np.zeros(63, np.int64), cache)
    model.logits(np.zeros(1, np.int64), cache)
    with pytest.raises(halve.HalveError, match=r"65 tokens are more than the context of 64"):
        model.logits(np.zeros(1, np.int64), cache)


@pytest.mark.parametrize(
    ("scheme", "layout"),
    [("bf16", "dense"), ("fp16", "dense"), ("nvfp4a16", "compressed-tensors"), ("w4a16_asym", "compressed-tensors"),
     ("fp8_dynamic", "compressed-tensors"), ("mxfp6_e2m3a16", "quark")],
)  # fmt: skip
def test_quantized_checkpoints_load_as_what_they_mean(tmp_path, scheme, layout):
    config = llama.decoder_config("qwen2", hidden_size=64, intermediate_size=320, vocab_size=300)
    source = llama.write_decoder(tmp_path / "source", config)
    halve.quantize(source, tmp_path / "out", scheme, layout=layout)
    model = load(tmp_path / "out", threads=2)
    checkpoint = open_checkpoint(tmp_path / "out")
    stored = layouts.get(layout).open(checkpoint)
    assert (len(stored) == 21) == (layout != "dense")
    for name, found in model.parameters.items():
        if name in stored:
            weight = stored[name]
            wanted = dequantize(layouts.get(layout).read(checkpoint, weight, 0, weight.shape[0]))
        else:
            wanted = read_array(checkpoint, name).astype(np.float32)
        np.testing.assert_array_equal(found, wanted, err_msg=name)
    checkpoint.close()
    tokens = llama.decoder_tokens(config)
    exact, logits = load(source).logits(tokens), model.logits(tokens)
    assert 0 < np.abs(logits - exact).mean() < {"dense": 0.05, "quark": 0.5}.get(layout, 2) * exact.std()


@pytest.mark.parametrize(
    ("name", "scheme", "layout", "count"),
    [
        ("qwen3_moe", "nvfp4a16", "compressed-tensors", 3 * (4 + 6 * 3)),
        ("qwen3_moe", "fp8_dynamic", "compressed-tensors", 3 * (4 + 6 * 3)),
        ("phi3", "nvfp4a16", "modelopt", 3 * 4),
        ("gemma3", "mxfp4a16", "quark", 3 * 7),
        ("gpt_oss", "mxfp4a16", "gpt-oss-mxfp4", 3 * 6 * 2),
    ],
)
def test_quantized_families_load_as_what_they_mean(tmp_path, name, scheme, layout, count):
    config = families.config_of(name, **({"moe_intermediate_size": 32} if name == "qwen3_moe" else {}))
    config["intermediate_size"] = 64
    source = families.write(tmp_path / "source", config, families.weights(config))
    ignore = ["re:.*self_attn"] if name == "gpt_oss" else []
    halve.quantize(source, tmp_path / "out", scheme, layout=layout, ignore=ignore)
    model, exact = load(tmp_path / "out"), load(source)
    with closing(open_checkpoint(tmp_path / "out")) as checkpoint:
        stored = layouts.get(layout).open(checkpoint)
        assert len(stored) == count
        for weight in stored.values():
            wanted = dequantize(layouts.get(layout).read(checkpoint, weight, 0, weight.shape[0]))
            np.testing.assert_array_equal(model.parameters[weight.name], wanted, err_msg=weight.name)
    tokens = llama.decoder_tokens(config)
    distance = np.abs(model.logits(tokens) - exact.logits(tokens)).mean()
    assert distance < (1e-6 if name == "gpt_oss" else 2) * exact.logits(tokens).std()  # gpt-oss is in MXFP4 as it is


def test_gguf_files_load(tmp_path):
    path = TinyModel(layers=2).write(tmp_path / "tiny.gguf")
    model = load(path)
    checkpoint = open_checkpoint(path)
    for name, found in model.parameters.items():
        np.testing.assert_array_equal(found, read_array(checkpoint, name).astype(np.float32), err_msg=name)
    checkpoint.close()
    assert np.isfinite(model.logits(np.arange(5))).all()
