"""llama.cpp loads what halve writes as GGUF and finds the same perplexity. Run by `nox -s "clients(llamacpp)"`."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

import halve
from halve.runtime.load import load
from tiny import llama

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PEER = BENCHMARKS.parent / ".peers" / "xllamacpp" / "bin" / "python"
TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "mxfp4", "nvfp4")
WIDE = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
}
RUNS = [
    "llama",
    "llama_tied",
    "llama_biased",
    "llama_rope_llama3",
    "llama_rope_linear",
    "mistral_tied",
    "qwen2",
    "qwen3",
]


def test_perplexity_of_every_type_is_ours(measured):
    met, missed = measured("llamacpp.py")
    assert not missed
    assert set(met) == {"llamacpp_ids", *(f"llamacpp_ppl_{name}" for name in TYPES)}


def losses(out, tokens, folder):
    """What llama.cpp and halve lose on the second half of ``tokens``."""
    (folder / "windows.json").write_text(json.dumps([tokens]))
    runner = BENCHMARKS / "runners" / "llamacpp_losses.py"
    command = [PEER, "-I", runner, out / "model.gguf", folder / "windows.json", folder / "losses.json"]
    subprocess.run(command, capture_output=True, check=True)
    logits = load(out).logits(np.array(tokens[:-1])).astype(np.float64)
    ours = np.logaddexp.reduce(logits, axis=-1) - logits[np.arange(len(logits)), tokens[1:]]
    return np.array(json.loads((folder / "losses.json").read_text())[0]), ours[len(tokens) // 2 - 1 :]


@pytest.mark.parametrize("name", RUNS)
def test_every_architecture_runs_as_ours(tmp_path, name):
    """Keys and values in FP16 are all that differs."""
    config = llama.decoder_config(name)
    halve.quantize(llama.write_decoder(tmp_path / "source", config), tmp_path / "out", "fp32", layout="gguf")
    theirs, ours = losses(tmp_path / "out", llama.decoder_tokens(config).tolist(), tmp_path)
    np.testing.assert_allclose(theirs, ours, atol=0.03)


@pytest.mark.parametrize("name", ["llama", "llama_biased", "qwen2", "qwen3"])
def test_tensor_scales_of_nvfp4_are_applied(tmp_path, name):
    """In attention, whose biases come after it, and in the output head; where it is not, halve refuses to write."""
    config = llama.decoder_config(name, **WIDE, tie_word_embeddings=False)
    # Small weights, so that rounding inputs to 8 bits makes small errors.
    tensors = {n: t * np.float32(0.1) if t.ndim > 1 else t for n, t in llama.decoder_weights(config).items()}
    source = llama.write_decoder(tmp_path / "source", config, tensors)
    ignore = ["re:.*mlp.*"] if name in ("llama_biased", "qwen2") else []
    halve.quantize(source, tmp_path / "out", "nvfp4a16", layout="gguf", include=["lm_head"], ignore=ignore)
    theirs, ours = losses(tmp_path / "out", llama.decoder_tokens(config).tolist(), tmp_path)
    np.testing.assert_allclose(theirs, ours, atol=0.03)
