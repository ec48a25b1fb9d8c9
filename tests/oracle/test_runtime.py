"""The runtime beside transformers: logits of every family and of SmolLM2, answers, draws and chat templates."""

from itertools import pairwise
from pydoc_data.topics import topics

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, Mxfp4Config
from transformers.generation import TopKLogitsWarper, TopPLogitsWarper

import halve
from halve.models import rotary
from halve.runtime.load import load
from halve.runtime.sample import Sampling, candidates
from tiny import families, llama

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

RELATIVE = 1.5e-5  # of the largest logit
SMOLLM2_CLOSE = 1e-3  # of logits up to 42
MESSAGES = [
    {"role": "user", "content": "Why is the sky blue?"},
    {"role": "assistant", "content": "Because of Rayleigh scattering."},
    {"role": "user", "content": "In one word, 世界?"},
]


def reference(folder, **options):
    # its plain attention: the other leaves out the caps of Gemma 2
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", **options
    ).eval()


def logits_of(model, tokens):
    with torch.no_grad():
        return model(torch.from_numpy(tokens)[None]).logits[0].numpy()


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf, tmp_path_factory):
    """SmolLM2 dequantized to BF16, in a folder that both read."""
    folder = tmp_path_factory.mktemp("smollm2") / "bf16"
    halve.quantize(smollm2_gguf, folder, "bf16")
    return folder


@pytest.mark.parametrize("name", families.DECODERS)
def test_logits_of_every_family(tmp_path, name):
    config = families.config_of(name, max_position_embeddings=700)
    if name == "phi3_short":
        config["original_max_position_embeddings"] = 400
    folder = families.write(tmp_path / name, config)
    tokens = llama.decoder_tokens(config, 300)  # more than two blocks of queries
    wanted = logits_of(reference(folder), tokens)
    bound = RELATIVE * np.abs(wanted).max()
    model = load(folder)
    np.testing.assert_allclose(model.logits(tokens), wanted, rtol=0, atol=bound)
    cache = model.new_cache()
    parts = [model.logits(tokens[start:stop], cache) for start, stop in pairwise([0, 150, 290, *range(291, 301)])]
    np.testing.assert_allclose(np.concatenate(parts), wanted, rtol=0, atol=bound)


@pytest.mark.parametrize("theta", [10000.0, 150000.0, 1000000.0])
@pytest.mark.parametrize("head_dim", [64, 96, 128, 256])
def test_frequencies_are_torch_s(theta, head_dim):
    """All but a few, which are an ulp off: at position 100,000 that is 0.006 radians."""
    exponents = torch.arange(0, head_dim, 2).float() / head_dim
    wanted = (1.0 / theta**exponents).numpy()
    found = rotary.read({}, head_dim, theta=theta).frequencies
    assert (found != wanted).mean() < 0.1
    np.testing.assert_allclose(found, wanted, rtol=1.3e-7, atol=0)


@pytest.mark.parametrize("name", families.BEYOND)
def test_answers_of_every_family(tmp_path, name):
    """Token by token with a cache of each one's own, from short to long texts where that is another rotation."""
    config = families.config_of(name)
    folder = families.write(tmp_path / name, config)
    asked = llama.decoder_tokens(config, 10)
    settings = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    # With its cache transformers 5.17 forgets the text where it becomes long.
    cached = name != "phi3_long"
    answer = reference(folder).generate(torch.from_numpy(asked)[None], use_cache=cached, **settings)[0].tolist()
    model = load(folder)
    cache, tokens, new = model.new_cache(), asked.tolist(), asked
    for _ in range(20):
        new = model.logits(new, cache)[-1:].argmax(1)
        tokens += new.tolist()
    assert tokens == answer


def test_packed_experts_are_transformers(tmp_path):
    config = families.config_of("gpt_oss")
    # transformers reads such a model in BF16
    weights = {name: array.astype(ml_dtypes.bfloat16) for name, array in families.weights(config).items()}
    folder = families.write_mxfp4(tmp_path / "model", config, weights)
    theirs = reference(folder, quantization_config=Mxfp4Config(dequantize=True)).float()
    tokens = llama.decoder_tokens(config)
    wanted = logits_of(theirs, tokens)
    bound = RELATIVE * np.abs(wanted).max()
    np.testing.assert_allclose(load(folder).logits(tokens), wanted, rtol=0, atol=bound)


@pytest.mark.parametrize("name", ["qwen3_moe", "qwen3_moe_mixed"])
def test_experts_in_one_tensor_are_transformers(tmp_path, name):
    config = families.config_of(name)
    theirs = reference(families.write(tmp_path / "source", config))
    theirs.save_pretrained(tmp_path / "saved", save_original_format=False)
    with safe_open(tmp_path / "saved" / "model.safetensors", "np") as saved:
        assert "model.layers.0.mlp.experts.gate_up_proj" in saved.keys()  # noqa: SIM118 - no mapping
    tokens = llama.decoder_tokens(config)
    wanted = logits_of(theirs, tokens)
    bound = RELATIVE * np.abs(wanted).max()
    np.testing.assert_allclose(load(tmp_path / "saved").logits(tokens), wanted, rtol=0, atol=bound)


def test_smollm2_logits_and_answers(smollm2):
    theirs, ours = reference(smollm2), load(smollm2)
    tokens = ours.tokenizer.encode("\n".join(topics.values())[:8000])[:1024]
    wanted = logits_of(theirs, tokens)
    found = ours.logits(tokens)
    assert np.abs(found - wanted).max() < SMOLLM2_CLOSE
    cache = ours.new_cache()
    parts = [ours.logits(tokens[start:stop], cache) for start, stop in pairwise([0, 1000, *range(1001, 1025)])]
    assert np.abs(np.concatenate(parts) - wanted).max() < SMOLLM2_CLOSE
    asked = ours.tokenizer.encode(ours.chat.render(MESSAGES[:1]), special=False)
    answer = theirs.generate(torch.from_numpy(asked)[None], max_new_tokens=24, do_sample=False)[0, len(asked) :]
    assert list(ours.generate(MESSAGES[:1], max_tokens=24).tokens) == answer.tolist()


def test_smollm2_gguf_runs_as_its_bf16_copy(smollm2, smollm2_gguf):
    tokens = np.arange(500, 540)
    np.testing.assert_array_equal(load(smollm2_gguf).logits(tokens), load(smollm2).logits(tokens))


def test_chat_template_and_tokens_are_transformers(smollm2):
    theirs, ours = AutoTokenizer.from_pretrained(smollm2), load(smollm2)
    wanted = theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    text = ours.chat.render(MESSAGES)
    assert text == wanted
    tokens = ours.tokenizer.encode(text, special=False)
    assert tokens.tolist() == theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.tokenizer.decode(tokens) == theirs.decode(tokens.tolist(), skip_special_tokens=True)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (0, 0.5), (0, 0.9), (50, 0.8)])
def test_what_may_be_drawn_is_transformers(seed, top_k, top_p):
    logits = np.random.default_rng(seed).normal(0, 3, 1000).astype(np.float32)
    scores = torch.from_numpy(logits)[None].double() / 0.7
    scores = TopKLogitsWarper(top_k)(None, scores) if top_k else scores
    scores = TopPLogitsWarper(top_p)(None, scores) if top_p < 1 else scores
    wanted = scores.softmax(-1)[0].numpy()
    tokens, probabilities = candidates(logits, Sampling(temperature=0.7, top_k=top_k, top_p=top_p))
    found = np.zeros(1000)
    found[tokens] = probabilities
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-15)
