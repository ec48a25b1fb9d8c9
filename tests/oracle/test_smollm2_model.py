"""SmolLM2 dequantized from its GGUF file: the gguf package's values, and the loss that llama.cpp computes with it."""

import json

import numpy as np
import pytest
from gguf import GGUFReader
from ml_dtypes import bfloat16

from halve.checkpoint.base import read_array
from halve.checkpoint.gguf_checkpoint import GgufCheckpoint
from tiny.corpus import GOLDEN, corpus
from tiny.gguf_models import interleave, values

LOSS = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))["loss"]["SmolLM2-135M-Instruct"]


def test_every_tensor_equals_the_gguf_packages_reading(smollm2_gguf):
    checkpoint = GgufCheckpoint(smollm2_gguf)
    stored = {tensor.name: tensor for tensor in GGUFReader(smollm2_gguf).tensors}
    assert len(checkpoint.tensors) == len(stored) == 272
    for name, source in checkpoint._sources.items():
        tensor = stored[source.tensor.name]
        expected = values(tensor.data, tensor.tensor_type.name).astype(bfloat16)
        ours = read_array(checkpoint, name)
        heads = {"attn_q": 9, "attn_k": 3}.get(tensor.name.split(".")[-2], 0)
        assert np.array_equal(interleave(ours, heads) if heads else ours, expected), name
    checkpoint.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_transformers_computes_llama_cpps_loss(smollm2_gguf, tmp_path):
    """Names, order of q/k rows, rope, norms and tokenizer are right together: a wrong row order gives 5.4."""
    torch = pytest.importorskip("torch", reason="the extra `oracle` is not installed")
    transformers = pytest.importorskip("transformers", reason="the extra `oracle` is not installed")
    checkpoint = GgufCheckpoint(smollm2_gguf)
    for name, content in checkpoint.auxiliary().items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "config.json").write_text(json.dumps(checkpoint.config))
    state = {name: torch.from_numpy(read_array(checkpoint, name).astype(np.float32)) for name in checkpoint.tensors}
    checkpoint.close()
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(tmp_path)).float()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])  # tied to the embedding
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path, model_max_length=1 << 30)
    ids = torch.tensor([tokenizer(corpus()[LOSS["text"]])["input_ids"][: LOSS["tokens"]]])
    with torch.no_grad():
        loss = model(ids, labels=ids).loss.item()
    # llama.cpp computes with 8-bit activations: single tokens differ by up to 0.4, the mean by 0.0003.
    assert loss == pytest.approx(LOSS["mean"], abs=0.005)
