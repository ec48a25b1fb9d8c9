"""Perplexity and divergence beside torch: its cross entropy and KL divergence of logits that transformers computes."""

from math import exp

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from transformers import AutoModelForCausalLM, AutoTokenizer

import halve
from halve.evaluate import text
from halve.evaluate.text import Text
from tiny import speaker

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

CLOSE = 1e-4  # relative


def reference(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def windows(folder, content, count, size):
    """Windows of transformers' own tokens, whose tokenizer puts nothing in front."""
    ids = AutoTokenizer.from_pretrained(folder, model_max_length=1 << 30)(content)["input_ids"]
    return torch.tensor(ids[: count * size]).reshape(count, size)


def logits_of(model, tokens):
    """Logits in float64 for the second half of each window."""
    half = tokens.shape[1] // 2
    with torch.inference_mode():
        return torch.stack([model(row[None]).logits[0, half - 1 : -1].double() for row in tokens])


def perplexity(logits, tokens):
    return exp(cross_entropy(logits.flatten(0, 1), tokens[:, tokens.shape[1] // 2 :].flatten()).item())


@pytest.mark.parametrize("seed", range(3))
def test_a_tiny_model_and_its_bf16_copy(tmp_path, seed):
    base = speaker.write(tmp_path / "base", seed=seed)
    halve.quantize(base, tmp_path / "bf16", "bf16")
    tokens = windows(base, speaker.TEXT, 6, 96)
    theirs, lossy = (logits_of(reference(folder), tokens) for folder in (base, tmp_path / "bf16"))
    found = halve.evaluate(tmp_path / "bf16", against=base, texts=[Text("rack", speaker.TEXT)], windows=6, window=96)
    assert found.base_ppl.mean == pytest.approx(perplexity(theirs, tokens), rel=CLOSE)
    assert found.weights.ppl.mean == pytest.approx(perplexity(lossy, tokens), rel=CLOSE)
    divergence = kl_div(log_softmax(lossy, -1), log_softmax(theirs, -1), reduction="none", log_target=True).sum(-1)
    assert found.weights.kld.mean == pytest.approx(divergence.mean().item(), rel=1e-3)  # 2e-5 nats, of float32 logits
    assert found.weights.kld_max == pytest.approx(divergence.max().item(), rel=1e-2)
    same = (theirs.argmax(-1) == lossy.argmax(-1)).double().mean().item()
    assert found.weights.same_top.mean == pytest.approx(100 * same)


def test_smollm2(smollm2_gguf, tmp_path):
    halve.quantize(smollm2_gguf, tmp_path / "bf16", "bf16")
    content = text.default().content
    tokens = windows(tmp_path / "bf16", content, 3, 512)
    found = halve.evaluate(tmp_path / "bf16", windows=3)
    logits = logits_of(reference(tmp_path / "bf16"), tokens)
    assert found.weights.ppl.mean == pytest.approx(perplexity(logits, tokens), rel=CLOSE)
    by_window = [perplexity(logits[i : i + 1], tokens[i : i + 1]) for i in range(3)]
    assert np.exp([p.nll for p in found.weights.passages]).tolist() == pytest.approx(by_window, rel=CLOSE)
