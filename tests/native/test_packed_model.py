"""Packed models against the reference runtime, which is told to round its cache and activations as they do."""

from functools import partial

import numpy as np
import pytest

import halve
from halve import formats
from halve.codecs import dispatch
from halve.errors import CheckpointError, UnsupportedError
from halve.models.decoder import EMBEDDING
from halve.runtime.load import load as load_reference
from halve.runtime.packed import kernels, reference
from halve.runtime.packed.load import load, load_quickest
from halve.runtime.packed.model import PackedModel
from native.test_packed import PACKED_ISAS
from tiny import families, llama

# Of logits up to 14: the order of sums, and now and then a half that rounds the other way because of it.
CLOSE, CLOSE_ON_THE_WHOLE = 5e-2, 1e-3
SIZES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "num_hidden_layers": 3}
_FACTORS = {"short_factor": [1 + 0.1 * i for i in range(8)], "long_factor": [1.5 + i for i in range(8)]}
LONG = ("phi3_long", "phi3_short")  # texts of more than 16 and of more than 48 tokens
EXPERTS = ("qwen3_moe", "qwen3_moe_mixed", "gpt_oss", "gpt_oss_default")
SCHEMES_TRIED = ("nvfp4a16", "mxfp4a16", "w4a16", "w4a16_asym", "fp8", "w8a16", "mxfp6_e2m3a16", "bf16", "fp16")


@pytest.fixture(autouse=True, params=PACKED_ISAS)
def isa(request, monkeypatch):
    native = pytest.importorskip("halve._native", reason="halve was installed without its native module")
    if request.param not in native.packed_isas():
        pytest.skip(f"this machine has no {request.param}")
    chosen = native.packed_kernels(request.param)
    monkeypatch.setattr(kernels, "kernels", lambda: chosen)
    return request.param


@pytest.fixture
def checkpoint(tmp_path):
    def make(name, **changes):
        sizes = SIZES | ({"rope_scaling": {"type": "longrope", **_FACTORS}} if name in LONG else {})
        return families.write(tmp_path / name, families.config_of(name, **(sizes | changes)))

    return make


def assert_close(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=0, atol=CLOSE)
    assert np.abs(ours - expected).mean() < CLOSE_ON_THE_WHOLE


def as_halves(_layer, *arrays):
    return tuple(array.astype(np.float16).astype(np.float32) for array in arrays)


def expected_logits(path, tokens, mode="exact"):
    """The reference's logits with a cache in FP16, and its linears' inputs rounded as `mode` says; not a router's."""
    model = load_reference(path)
    packed = load(path, mode=mode, threads=1)
    for name, linear in model.linears.items():
        block = packed.blocks[f"{name}.weight" if not linear.tied else f"{EMBEDDING}.weight"]
        used = "exact" if name.endswith(("mlp.gate", "mlp.router")) else mode
        linear.activation = lambda x, block=block, used=used: reference.rounded(block, x, used).astype(np.float32)
    return model.logits(tokens, model.new_cache(as_halves))


@pytest.mark.parametrize("name", families.DECODERS)
def test_logits_are_the_references(checkpoint, name):
    path = checkpoint(name)
    model = load(path, mode="exact", threads=1)
    tokens = llama.decoder_tokens(model.config)
    assert_close(model.logits(tokens), expected_logits(path, tokens))


@pytest.mark.parametrize("mode", ["bf16", "int8"])
@pytest.mark.parametrize("scheme", SCHEMES_TRIED)
def test_schemes_and_modes(checkpoint, tmp_path, scheme, mode):
    """Step by step, and as a prompt: that multiplies in bf16, and may round weights to bf16.

    Activations that round the other way shift a logit now and then: the bounds are on the whole.
    """
    source = checkpoint("llama", hidden_size=128, intermediate_size=256)
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


def rounded_to_e4m3(array, scale):
    e4m3 = formats.get("fp8_e4m3")
    return dispatch.decode(e4m3, dispatch.encode(e4m3, array / np.float32(scale))) * np.float32(scale)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt_oss"])
def test_a_cache_in_fp8(checkpoint, monkeypatch, name):
    scales = {0: (1.0, 1.0), 1: (0.5, 2.0), 2: (0.004, 0.007)}  # the last saturate
    stored = {f"model.layers.{layer}.self_attn": pair for layer, pair in scales.items()}
    monkeypatch.setattr("halve.runtime.packed.load.kv_scales", lambda _: stored)
    path = checkpoint(name)
    model, plain = load(path, mode="exact", kv="fp8", threads=2), load(path, mode="exact", threads=2)
    tokens, reference_model = llama.decoder_tokens(model.config), load_reference(path)

    def as_stored(layer, *arrays):
        return tuple(rounded_to_e4m3(array, scale) for array, scale in zip(arrays, scales[layer], strict=True))

    expected = reference_model.logits(tokens, reference_model.new_cache(as_stored))
    cache = model.new_cache()
    steps = np.concatenate([model.logits(token, cache) for token in np.split(tokens, len(tokens))])
    lost = np.abs(plain.logits(tokens) - expected).mean()
    for logits in (model.logits(tokens), steps):  # now and then a code is the next one, as sums have another order
        assert np.abs(logits - expected).mean() < 0.1 * lost
    other = plain.new_cache()
    plain.logits(tokens, other)
    assert 2 * cache.nbytes == other.nbytes


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gemma2", "gemma3", "phi3_partial", *EXPERTS])
@pytest.mark.parametrize("sizes", [[1] * 40, [7, 33], [39, 1], [16, 1, 15, 8]], ids=str)
def test_steps_give_what_the_whole_gives(checkpoint, name, sizes):
    model = load(checkpoint(name), mode="exact", threads=1)
    tokens, cache = llama.decoder_tokens(model.config), model.new_cache()
    parts = [model.logits(part, cache) for part in np.split(tokens, np.cumsum(sizes)[:-1])]
    assert_close(np.concatenate(parts), model.logits(tokens))
    assert cache.tokens == tokens.tolist()


@pytest.mark.parametrize("mode", kernels.MODES)
@pytest.mark.parametrize("count", [1, 3, 4, 13, 33])
@pytest.mark.parametrize("name", ["mistral", "qwen3_moe_mixed", "gpt_oss"])
def test_sequences_side_by_side(checkpoint, name, mode, count):
    """Each with a cache of its own, of its own length; up to 32 get the bits that they get alone."""
    model = load(checkpoint(name), mode=mode, threads=1)
    tokens = llama.decoder_tokens(model.config)
    texts = [np.roll(tokens, -i)[: 2 + 2 * i] for i in range(count)]
    alone, together = [model.new_cache() for _ in texts], [model.new_cache() for _ in texts]
    for text, one, other in zip(texts, alone, together, strict=True):
        model.logits(text, one)
        model.logits(text, other)
    for step in range(5):
        following = [int(tokens[(i + step) % 40]) for i in range(count)]
        expected = np.concatenate([model.logits([t], cache) for t, cache in zip(following, alone, strict=True)])
        logits = model.next_logits(following, together)
        if count <= 32:
            np.testing.assert_array_equal(logits, expected)
        elif mode == "exact":
            assert_close(logits, expected)
    assert [cache.tokens for cache in together] == [cache.tokens for cache in alone]


def test_sequences_side_by_side_need_caches(checkpoint):
    model = load(checkpoint("llama"), threads=1)
    one, two = model.new_cache(), model.new_cache()
    for tokens, caches in (([], []), ([1], []), ([1, 2], [one]), ([1, 2], [one, one]), ([1], [one, two])):
        with pytest.raises(UnsupportedError, match="caches"):
            model.next_logits(tokens, caches)
    with pytest.raises(CheckpointError, match="vocabulary"):
        model.next_logits([80], [one])
    model.logits(np.zeros(64, np.int64), one)
    with pytest.raises(UnsupportedError, match="context of 64"):
        model.next_logits([1, 1], [two, one])
    assert (len(one), len(two)) == (64, 0)


@pytest.mark.parametrize("name", ["qwen2", "qwen3_moe", "gpt_oss"])
def test_threads_change_no_bit(checkpoint, name):
    model = load(checkpoint(name), threads=1)
    tokens = llama.decoder_tokens(model.config)
    alone = [model.logits(tokens[:count]) for count in (1, 3, 7, 40)]
    for threads in (2, 3, 5):
        model.use(kernels.native.Pool(threads))
        for logits in alone:
            np.testing.assert_array_equal(model.logits(tokens[: len(logits)]), logits)


def test_long_texts(checkpoint):
    """The cache grows, tiles of keys begin and end anywhere, windows slide over them."""
    for name, window in (("llama", None), ("mistral", 100)):
        path = checkpoint(name, max_position_embeddings=700, **({"sliding_window": window} if window else {}))
        model = load(path, mode="exact", threads=1)
        tokens, cache = llama.decoder_tokens(model.config, 600), model.new_cache()
        parts = [model.logits(part, cache) for part in np.split(tokens, [250, 251, 252, 530, 531])]
        assert_close(np.concatenate(parts), expected_logits(path, tokens))


def test_a_cache_that_forgets(checkpoint):
    """What is kept of a cache is all that counts, and a text taken up again goes on as if it were new."""
    model = load(checkpoint("llama"), mode="exact", threads=1)
    tokens, cache = llama.decoder_tokens(model.config), model.new_cache()
    model.logits(tokens, cache)
    assert cache.keep([*tokens[:11], 1 + tokens[11]]) == 11
    other = np.concatenate([tokens[:11], tokens[::-1][:9]])
    assert_close(model.logits(other[11:], cache), model.logits(other)[11:])


def test_start_leaves_out_the_first_logits(checkpoint):
    model = load(checkpoint("llama"), mode="exact", threads=1)
    tokens = llama.decoder_tokens(model.config)
    whole = model.logits(tokens)
    for start in (0, 17, 39):
        assert_close(model.logits(tokens, start=start), whole[start:])


def test_what_a_model_says_of_itself(checkpoint, isa):
    model = load(checkpoint("llama"), mode="int8", threads=1)
    assert model.engine == f"packed path ({isa}, int8 activations, 1 thread)"
    assert model.nbytes > 4 * (model.geometry.count - model.geometry.vocab * model.geometry.hidden)


def test_models_that_native_code_does_not_know(checkpoint):
    path = checkpoint("llama", head_dim=8)
    with pytest.raises(UnsupportedError, match="multiple of 16") as raised:
        load(path, threads=1)
    assert "--reference" in raised.value.hint
    assert not isinstance(load_quickest(path), PackedModel)
    assert isinstance(load_quickest(checkpoint("mistral")), PackedModel)


def test_without_native_code_the_reference_runs(checkpoint, monkeypatch):
    path = checkpoint("llama")
    monkeypatch.setattr(kernels, "native", None)
    assert load_quickest(path).engine == "reference path"
    with pytest.raises(UnsupportedError, match="native module"):
        load(path)


def test_damaged_weights(tmp_path):
    config = llama.decoder_config("llama", **SIZES)
    tensors = llama.decoder_weights(config)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = np.nan
    path = llama.write_decoder(tmp_path / "damaged", config, tensors)
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: a weight holds NaN or Inf"):
        load(path, threads=1)
    tensors["model.layers.1.mlp.up_proj.weight"][:] = 3e38
    path = llama.write_decoder(tmp_path / "huge", config, tensors)
    with pytest.raises(CheckpointError, match="logits are not finite"):
        load(path, mode="exact", threads=1).logits(llama.decoder_tokens(config))


def arguments(model):
    cache = model.new_cache()
    cache.reserve(4)
    return {
        "tokens": np.arange(4),
        "position": 0,
        "in_long_text": False,
        "keys": cache.keys,
        "values": cache.values,
        "logits": np.empty((4, model.vocabulary), np.float32),
    }


@pytest.mark.parametrize(
    ("error", "changes"),
    [
        (ValueError, {"tokens": np.arange(0)}),
        (ValueError, {"tokens": np.array([80])}),
        (ValueError, {"tokens": np.array([-1])}),
        (TypeError, {"tokens": np.arange(4, dtype=np.int32)}),
        (ValueError, {"tokens": np.arange(3)}),
        (ValueError, {"position": 253}),
        (TypeError, {"position": -1}),
        (ValueError, {"keys": np.zeros(3, np.uint16)}),
        (ValueError, {"values": np.zeros(3, np.uint16)}),
        (ValueError, {"logits": np.empty(79, np.float32)}),
    ],
    ids=str,
)
def test_the_border(checkpoint, error, changes):
    model = load(checkpoint("llama"), threads=1)
    step = partial(model._decoder.step, model._pool)
    good = arguments(model)
    step(good.pop("tokens"), **good)
    bad = arguments(model) | changes
    with pytest.raises(error):
        step(bad.pop("tokens"), **bad)
