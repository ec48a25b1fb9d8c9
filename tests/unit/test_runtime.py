"""The reference runtime: transformers' logits, the cache, hooks, and every kind of checkpoint."""

from pathlib import Path

import numpy as np
import pytest

import halve
from halve import layouts
from halve.checkpoint.base import read_array
from halve.checkpoint.source import open_checkpoint
from halve.runtime import attention
from halve.runtime.load import load
from halve.schemes.quantize import dequantize
from tiny import llama
from tiny.gguf_models import TinyModel

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "runtime" / "logits.npz")
CLOSE = 1e-4  # of logits up to 14; 1.5e-5 is what the order of float32 sums makes


@pytest.fixture
def decoder(tmp_path):
    def make(name, **changes):
        return load(llama.write_decoder(tmp_path / name, llama.decoder_config(name, **changes)))

    return make


@pytest.mark.parametrize("name", llama.DECODERS)
def test_logits_are_transformers(decoder, name):
    model = decoder(name)
    tokens = llama.decoder_tokens(model.config)
    logits = model.logits(tokens)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, GOLDEN[name], rtol=0, atol=CLOSE)
    np.testing.assert_array_equal(logits, model.logits(tokens))  # a second time: no state is left


@pytest.mark.parametrize("name", llama.DECODERS)
@pytest.mark.parametrize("sizes", [[1] * 40, [7, 33], [39, 1]], ids=str)
def test_a_cache_changes_nothing(decoder, name, sizes):
    model = decoder(name)
    tokens, cache = llama.decoder_tokens(model.config), model.new_cache()
    parts = [model.logits(part, cache) for part in np.split(tokens, np.cumsum(sizes)[:-1])]
    np.testing.assert_allclose(np.concatenate(parts), GOLDEN[name], rtol=0, atol=CLOSE)
    assert cache.tokens == tokens.tolist()


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2_window", "qwen3"])
@pytest.mark.parametrize("block", [1, 5, 16, 39])
def test_blocks_of_queries_change_nothing(decoder, monkeypatch, name, block):
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    model = decoder(name)
    tokens, cache = llama.decoder_tokens(model.config), model.new_cache()
    np.testing.assert_allclose(model.logits(tokens), GOLDEN[name], rtol=0, atol=CLOSE)
    later = [model.logits(part, cache) for part in np.split(tokens, [11])][1]
    np.testing.assert_allclose(later, GOLDEN[name][11:], rtol=0, atol=CLOSE)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama", {"rope_theta": 10000.0}),
        ("llama", {"rms_norm_eps": 0.1}),
        ("llama_rope_llama3", {"rope_parameters": {"rope_type": "default"}}),
        ("llama_rope_linear", {"rope_scaling": None}),
        ("mistral", {"sliding_window": 8}),
        ("qwen2_window", {"max_window_layers": 2}),
    ],
)
def test_every_setting_is_heard(decoder, name, change):
    """The golden logits would notice each of them missing."""
    model = decoder(name, **change)
    assert np.abs(model.logits(llama.decoder_tokens(model.config)) - GOLDEN[name]).max() > 0.01


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


def test_gguf_files_load(tmp_path):
    path = TinyModel(layers=2).write(tmp_path / "tiny.gguf")
    model = load(path)
    checkpoint = open_checkpoint(path)
    for name, found in model.parameters.items():
        np.testing.assert_array_equal(found, read_array(checkpoint, name).astype(np.float32), err_msg=name)
    checkpoint.close()
    assert np.isfinite(model.logits(np.arange(5))).all()
