"""What the runtime says about models it cannot run, and about input that makes no sense."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from halve.errors import CheckpointError, UnsupportedError
from halve.runtime.load import load
from tiny import families, llama

LAYER = "model.layers.1"


@pytest.fixture
def folder(tmp_path):
    return llama.write_decoder(tmp_path / "model", llama.decoder_config("llama"))


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def change_tensors(folder, **changes):
    """None removes; dots are written as two underscores."""
    tensors = load_file(folder / "model.safetensors")
    tensors |= {name.replace("__", "."): array for name, array in changes.items()}
    config = json.loads((folder / "config.json").read_text())
    llama.write_decoder(folder, config, {name: array for name, array in tensors.items() if array is not None})


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"]}, "GPTNeoXForCausalLM"),
        ({"model_type": "mamba", "architectures": None}, "mamba"),
        ({"model_type": None, "architectures": []}, "None"),
        ({"model_type": ["llama"], "architectures": "x"}, r"\['llama'\]"),
    ],
)
def test_unknown_architectures(folder, config, name):
    change_config(folder, **config)
    message = rf"run and eval do not know {name} \(quantize does\); known: gemma2, gemma3_text, gpt_oss, llama, "
    with pytest.raises(UnsupportedError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"num_hidden_layers": 2}, CheckpointError, r"model\.layers\.2\.\S+ has no place"),
        ({"num_hidden_layers": 4}, CheckpointError, r"model\.layers\.3\.input_layernorm\.weight is missing"),
        ({"num_hidden_layers": 10**12}, CheckpointError, "1000000000000 layers, and there are"),
        ({"hidden_size": 10**12}, CheckpointError, r"embed_tokens.* \[80, 32\], .* \[80, 1000000000000\]"),
        ({"attention_bias": True}, CheckpointError, r"q_proj\.bias is missing"),
        ({"vocab_size": 81}, CheckpointError, r"has shape \[80, 32\], config.json says \[81, 32\]"),
        ({"num_attention_heads": 3}, CheckpointError, "has shape"),
        ({"max_position_embeddings": 0}, CheckpointError, "max_position_embeddings = 0"),
        ({"max_position_embeddings": 10.5}, CheckpointError, "a whole number"),
        ({"rms_norm_eps": "small"}, CheckpointError, "rms_norm_eps = 'small'"),
        ({"rope_theta": -1}, CheckpointError, "rope_theta = -1"),
        ({"rope_theta": float("nan")}, CheckpointError, "rope_theta = nan"),
        ({"hidden_act": "gelu"}, UnsupportedError, "hidden_act 'gelu'"),
        ({"partial_rotary_factor": 0.5}, UnsupportedError, "partial_rotary_factor = 0.5"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4}}, UnsupportedError, "rope scaling 'dynamic'"),
        ({"rope_scaling": {"rope_type": ["yarn"]}}, UnsupportedError, r"rope scaling \['yarn'\]"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": -4}}, CheckpointError, "factor = -4"),
        ({"rope_scaling": {"rope_type": "yarn"}, "rope_theta": 1}, CheckpointError, "rope_theta = 1.0"),
        ({"rope_scaling": {"rope_type": "longrope"}}, CheckpointError, "short_factor = None, .* list of 4 numbers"),
        ({"rope_scaling": {"type": "linear"}}, CheckpointError, "factor = None"),
        ({"rope_scaling": "linear"}, CheckpointError, "rope_scaling = 'linear', which is not an object"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4,
                              "original_max_position_embeddings": 32}},
            CheckpointError,
            "low_freq_factor = 4",
        ),
        ({"model_type": "mistral", "sliding_window": -5}, CheckpointError, "sliding_window = -5"),
        ({"quantization_config": {"quant_method": "hqq"}}, CheckpointError, "'hqq' is not one"),
    ],
)  # fmt: skip
def test_configs_that_do_not_fit(folder, changes, error, says):
    change_config(folder, **changes)
    with pytest.raises(error, match=says) as raised:
        load(folder)
    assert raised.value.hint


@pytest.mark.parametrize(
    ("name", "changes", "error", "says"),
    [
        ("gemma2", {"use_bidirectional_attention": True}, UnsupportedError, "use_bidirectional_attention"),
        ("gemma2", {"hidden_activation": "gelu"}, UnsupportedError, "hidden_activation 'gelu'"),
        ("gemma2", {"layer_types": ["chunked_attention"] * 3}, CheckpointError, "layer_types"),
        ("gemma2", {"attn_logit_softcapping": 0}, CheckpointError, "attn_logit_softcapping = 0"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, UnsupportedError, "attn_logit_softcapping in Gemma 3"),
        ("gemma3_parameters", {"rope_parameters": {"full_attention": 1}}, CheckpointError, "not an object"),
        ("phi3_partial", {"partial_rotary_factor": 0.4}, CheckpointError, "an even part of heads of 8"),
        ("phi3_partial", {"partial_rotary_factor": 2.0}, CheckpointError, "an even part of heads of 8"),
        ("phi3_long", {"rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 0], "long_factor": [1] * 4}},
         CheckpointError, "short_factor = 0"),
        ("qwen3_moe", {"num_experts": 7}, CheckpointError, r"mlp\.gate\.weight has shape \[6, 32\]"),
        ("qwen3_moe", {"num_experts": 10**12}, CheckpointError, r"mlp\.gate\.weight has shape \[6, 32\]"),
        ("qwen3_moe", {"num_experts_per_tok": 7}, CheckpointError, "num_experts_per_tok = 7, and there are 6 experts"),
        ("qwen3_moe", {"moe_intermediate_size": 8}, CheckpointError, r"experts\.0\.gate_proj\.weight has shape"),
        ("qwen3_moe", {"mlp_only_layers": 1}, CheckpointError, "mlp_only_layers = 1"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, CheckpointError, r"layers\.0\.mlp\.gate_proj\.weight is missing"),
        ("gpt_oss", {"num_local_experts": 5}, CheckpointError, r"router\.weight has shape"),
        ("gpt_oss", {"swiglu_limit": "far"}, CheckpointError, "swiglu_limit = 'far'"),
    ],
)  # fmt: skip
def test_configs_of_families_that_do_not_fit(tmp_path, name, changes, error, says):
    config = families.config_of(name)
    folder = families.write(tmp_path / "model", config)
    change_config(folder, **changes)
    with pytest.raises(error, match=says) as raised:
        load(folder)
    assert raised.value.hint


def test_head_counts_that_do_not_divide(tmp_path):
    config = llama.decoder_config("llama", num_attention_heads=5)
    with pytest.raises(CheckpointError, match="5 query heads, 2 key heads of 8 are no attention geometry"):
        load(llama.write_decoder(tmp_path / "model", config))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model__norm__weight": None}, r"model\.norm\.weight is missing"),
        ({"lm_head__weight": None}, r"lm_head\.weight is missing"),
        ({"model__layers__0__self_attn__q_proj__bias": np.ones(32, np.float32)}, r"q_proj\.bias has no place"),
        ({"model__norm__weight": np.ones(32, np.int8)}, r"model\.norm\.weight is I8"),
        ({"model__norm__weight": np.ones((32, 1), np.float32)}, r"\[32, 1\], config.json says \[32\]"),
    ],
)
def test_tensors_that_do_not_fit(folder, changes, says):
    change_tensors(folder, **changes)
    with pytest.raises(CheckpointError, match=says) as raised:
        load(folder)
    assert raised.value.hint


def test_tables_that_nobody_needs_are_left_out(folder):
    wanted = load(folder).logits(np.arange(9))
    change_tensors(folder, model__layers__0__self_attn__rotary_emb__inv_freq=np.ones(4, np.float32))
    np.testing.assert_array_equal(load(folder).logits(np.arange(9)), wanted)


@pytest.mark.parametrize(
    ("tokens", "error", "says"),
    [
        ([0, 80], CheckpointError, "token 80 is outside the vocabulary of 80"),
        ([-1], CheckpointError, "token -1 is outside"),
        ([0] * 65, UnsupportedError, r"65 tokens are more than the context of 64 \(max_position_embeddings\)"),
        ([], UnsupportedError, "one or more integers"),
        ([[1, 2]], UnsupportedError, r"int64 of shape \[1, 2\]"),
        ([0.5], UnsupportedError, "float64"),
    ],
)
def test_tokens_that_make_no_sense(folder, tokens, error, says):
    with pytest.raises(error, match=says) as raised:
        load(folder).logits(np.array(tokens))
    assert raised.value.hint


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [
        ("model.embed_tokens.weight", "model.embed_tokens"),
        (f"{LAYER}.input_layernorm.weight", LAYER),
        (f"{LAYER}.self_attn.k_proj.weight", LAYER),
        (f"{LAYER}.mlp.down_proj.weight", LAYER),
        ("model.norm.weight", "model.norm"),
        ("lm_head.weight", "lm_head"),
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_first_layer_that_is_not_finite_is_named(folder, tensor, layer, value):
    array = load_file(folder / "model.safetensors")[tensor]
    array[..., 3] = value
    change_tensors(folder, **{tensor.replace(".", "__"): array})
    with pytest.raises(CheckpointError, match="not finite") as raised:
        load(folder).logits(np.arange(9))
    message = str(raised.value)
    assert f"outputs of {layer} are not finite, and it is the first such layer: {tensor} holds NaN or Inf" in message


def test_a_tied_head_that_is_not_finite(tmp_path):
    config = llama.decoder_config("llama_tied")
    tensors = llama.decoder_weights(config)
    tensors["model.embed_tokens.weight"][79, 0] = np.nan  # a token that is not read
    model = load(llama.write_decoder(tmp_path / "model", config, tensors))
    with pytest.raises(CheckpointError, match=r"lm_head are not finite.* model.embed_tokens.weight holds NaN"):
        model.logits(np.arange(9))


def test_an_overflow_is_told_from_a_damaged_weight(folder):
    change_tensors(folder, model__layers__1__mlp__up_proj__weight=np.full((48, 32), 3e38, np.float32))
    with pytest.raises(CheckpointError, match=rf"{LAYER} are not finite.*float32 overflows there"):
        load(folder).logits(np.arange(9))


def test_text_needs_a_tokenizer_and_logits_do_not(folder):
    model = load(folder)
    assert model.logits(np.arange(3)).shape == (3, 80)
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        model.generate("Hi")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        load(folder).generate("Hi")
