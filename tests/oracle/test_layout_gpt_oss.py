"""transformers loads gpt-oss experts that halve packed, and holds the values that halve means."""

import json

import ml_dtypes
import numpy as np
import pytest

import halve
from halve import layouts
from halve.checkpoint.hf import HfCheckpoint
from halve.schemes.quantize import dequantize
from tiny import folders

EXPERTS, LAYERS = 5, 2

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own


@pytest.fixture(scope="module")
def model():
    """A random gpt-oss of transformers, in BF16."""
    torch = pytest.importorskip("torch", reason="the extra `oracle` is not installed")
    transformers = pytest.importorskip("transformers", reason="the extra `oracle` is not installed")
    torch.manual_seed(0)
    config = transformers.GptOssConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=EXPERTS,
        num_experts_per_tok=2,
        tie_word_embeddings=False,
    )
    found = transformers.GptOssForCausalLM(config).to(torch.bfloat16)
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return found


def by_expert(state):
    """The state dict with a tensor [out, in] an expert."""
    for name, tensor in state.items():
        if name.endswith((".gate_up_proj", ".down_proj")):
            for e, expert in enumerate(tensor):
                yield name.replace(".experts.", f".experts.{e}.") + ".weight", expert.T.contiguous()
        else:
            yield name, tensor


def bits(tensor):
    import torch

    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 60_000])
def test_transformers_holds_the_values_that_halve_means(model, tmp_path, shard_bytes):
    import torch
    from transformers import AutoModelForCausalLM, Mxfp4Config

    config = json.loads(model.config.to_json_string()) | {"architectures": ["GptOssForCausalLM"]}
    state = model.state_dict()
    tensors = {name: ("BF16", tuple(tensor.shape), bits(tensor)) for name, tensor in by_expert(state)}
    folders.write(tmp_path / "source", config, tensors)
    ignore = ["re:.*self_attn"]
    out = tmp_path / "out"
    halve.quantize(tmp_path / "source", out, "mxfp4a16", layout="gpt-oss-mxfp4", ignore=ignore, shard_bytes=shard_bytes)
    settings = Mxfp4Config(dequantize=True)
    loaded = AutoModelForCausalLM.from_pretrained(out, quantization_config=settings, dtype=torch.bfloat16)
    held = dict(by_expert(loaded.state_dict()))
    checkpoint, layout = HfCheckpoint(out), layouts.get("gpt-oss-mxfp4")
    weights = layout.open(checkpoint)
    assert len(weights) == 2 * LAYERS * EXPERTS
    for name, stored in weights.items():
        ours = dequantize(layout.read(checkpoint, stored, 0, stored.shape[0])).astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(ours.astype(np.float32), held[name].float().numpy(), err_msg=name)
    for name in tensors.keys() - weights.keys():
        assert tensors[name][2] == bits(held[name]), name
    tokens = torch.arange(16)[None]
    with torch.no_grad():
        before, after = (m(tokens).logits.float() for m in (model.eval(), loaded.eval()))
    cosine = torch.nn.functional.cosine_similarity(before.flatten(), after.flatten(), dim=0)
    assert cosine > 0.9  # rows of gate and up, columns and experts are where the model looks for them
