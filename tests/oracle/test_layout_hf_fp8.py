"""transformers loads hf-fp8 on a CPU and holds the values that halve means, where its reading of tiles is right."""

import json

import ml_dtypes
import numpy as np
import pytest

import halve
from halve import layouts
from halve.checkpoint.base import TensorInfo
from halve.checkpoint.hf import HfCheckpoint
from halve.layouts.base import Contents
from halve.schemes import get
from halve.schemes.quantize import dequantize, quantize
from tiny import folders

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own
LAYOUT = layouts.get("hf-fp8")


@pytest.fixture
def source(tmp_path):
    """Write a random Llama in BF16: source(heads) has 64 rows of k_proj and v_proj a head."""
    torch = pytest.importorskip("torch", reason="the extra `oracle` is not installed")
    transformers = pytest.importorskip("transformers", reason="the extra `oracle` is not installed")
    pytest.importorskip("accelerate", reason='nox -s "oracles(quantizers)" installs it')

    def write(heads):
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=64,
            hidden_size=384,
            intermediate_size=256,
            num_hidden_layers=1,
            num_attention_heads=6,
            num_key_value_heads=heads,
            head_dim=64,
            tie_word_embeddings=False,
        )
        transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "source")
        return tmp_path / "source"

    return write


def held(folder):
    """What transformers holds, which without a GPU is dequantized."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16").state_dict()


def test_transformers_holds_the_values_that_halve_means(source, tmp_path):
    halve.quantize(source(2), tmp_path / "out", "fp8_block", layout="hf-fp8")
    checkpoint, state = HfCheckpoint(tmp_path / "out"), held(tmp_path / "out")
    found = LAYOUT.open(checkpoint)
    assert len(found) == 7
    for name, stored in found.items():
        ours = dequantize(LAYOUT.read(checkpoint, stored, 0, stored.shape[0])).astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(ours.astype(np.float32), state[name].float().numpy(), err_msg=name)


def test_192_rows_are_two_tiles_of_96_to_transformers(source, tmp_path):
    """Why `entries` refuses them. Where this fails, transformers has been mended and the refusal may go."""
    folder = source(3)
    plain = HfCheckpoint(folder)
    config = json.loads((folder / "config.json").read_text())
    name, scheme = "model.layers.0.self_attn.k_proj.weight", get("fp8_block")
    tensors = {}
    for info in plain.tensors.values():
        data = bytearray(info.nbytes)
        plain.read(info.name, 0, info.rows, memoryview(data))
        tensors[info.name] = info.dtype, info.shape, bytes(data)
    w = np.frombuffer(tensors[name][2], ml_dtypes.bfloat16).reshape(192, 384)
    q = quantize(scheme.weight, w)
    written = LAYOUT.write(TensorInfo(name, "BF16", (192, 384)), scheme, q, 0)
    tensors[name] = "F8_E4M3", (192, 384), written[name].tobytes()
    tensors[f"{name}_scale_inv"] = "F32", (2, 3), written[f"{name}_scale_inv"].tobytes()
    config |= LAYOUT.config(Contents(config, {}, {}, ["lm_head"]))
    folders.write(tmp_path / "out", config, tensors)
    seen = held(tmp_path / "out")[name].float().numpy()
    ours = dequantize(q).astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(seen[:96], ours[:96])
    assert not np.array_equal(seen[96:128], ours[96:128])
