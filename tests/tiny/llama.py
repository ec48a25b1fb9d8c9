"""A tiny Llama checkpoint with random weights, written by the safetensors library."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import save_file

from halve.checkpoint.base import DTYPES

HIDDEN, INTER, LAYERS, VOCAB, KV = 128, 256, 2, 300, 64


def weights(seed=0, dtype=ml_dtypes.bfloat16):
    """Tensors by their Hugging Face names."""
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (HIDDEN,),
            f"{layer}.post_attention_layernorm.weight": (HIDDEN,),
            f"{layer}.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            f"{layer}.self_attn.k_proj.weight": (KV, HIDDEN),
            f"{layer}.self_attn.v_proj.weight": (KV, HIDDEN),
            f"{layer}.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            f"{layer}.mlp.gate_proj.weight": (INTER, HIDDEN),
            f"{layer}.mlp.up_proj.weight": (INTER, HIDDEN),
            f"{layer}.mlp.down_proj.weight": (HIDDEN, INTER),
        }
    return {name: (rng.normal(size=shape) * 0.02).astype(dtype) for name, shape in shapes.items()}


def config():
    """config.json of a tied Llama."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCAB,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }


def write(folder: Path, tensors=None, *, shards=1):
    """Write a checkpoint folder; ``shards`` > 1 adds an index."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = weights() if tensors is None else tensors
    (folder / "config.json").write_text(json.dumps(config()))
    (folder / "tokenizer.json").write_text("{}")
    names = list(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    located = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[i::shards]}
        save_file(part, folder / file, {"format": "pt"})
        located |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": located}))
    return folder


def load(file: Path):
    """Tensors of a safetensors file as the safetensors library finds them, FP8 included."""
    found = safetensors.deserialize(file.read_bytes())
    return {
        name: np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(tensor["shape"]) for name, tensor in found
    }
