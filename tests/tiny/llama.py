"""Tiny checkpoints of the Llama family with random weights, written by the safetensors library."""

import json
from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from halve.checkpoint.base import DTYPES
from halve.models import families

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
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }


def write(folder: Path, tensors=None, *, shards=1):
    """Write a checkpoint folder; ``shards`` > 1 adds an index."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = weights() if tensors is None else tensors
    (folder / "config.json").write_text(json.dumps(config()))
    (folder / "tokenizer.json").write_text(_byte_tokenizer().to_str())
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


SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 80,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "torch_dtype": "float32",
    "bos_token_id": None,
    "eos_token_id": None,
}
_LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
_MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
_QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "head_dim": None}
_QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 16}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
DECODERS = {  # every way in which the members of the family differ; tests/golden/runtime holds transformers' logits
    "llama": _LLAMA | {"rope_theta": 500000.0},
    "llama_tied": _LLAMA | {"tie_word_embeddings": True, "head_dim": None},
    "llama_biased": _LLAMA | {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4},
    "llama_rope_llama3": _LLAMA | {"rope_parameters": {"rope_theta": 10000.0, **_LLAMA3}},
    "llama_rope_linear": _LLAMA | {"rope_theta": 1000.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "llama_rope_yarn": _LLAMA | {"rope_theta": 1000.0, "rope_scaling": YARN},
    "mistral": _MISTRAL | {"sliding_window": 7},
    "mistral_tied": _MISTRAL | {"sliding_window": None, "tie_word_embeddings": True},
    "qwen2": _QWEN2 | {"tie_word_embeddings": True, "sliding_window": 7, "use_sliding_window": False},
    "qwen2_window": _QWEN2 | {"sliding_window": 7, "use_sliding_window": True, "max_window_layers": 1},
    "qwen2_rope_yarn": _QWEN2
    | {"rope_parameters": YARN | {"rope_theta": 1000.0, "mscale": 0.7, "mscale_all_dim": 0.4, "beta_fast": 8}},
    "qwen3": _QWEN3,
    "qwen3_tied": _QWEN3 | {"tie_word_embeddings": True, "attention_bias": True},
}


def decoder_config(name, **changes):
    """config.json of one of ``DECODERS``."""
    return {key: value for key, value in (SMALL | DECODERS[name] | changes).items() if value is not None}


def decoder_weights(config, seed=0):
    """Random float32 tensors for ``config``, from raw bits, so that they are the same with every numpy."""
    bits = np.random.PCG64(seed)

    def uniform(shape):
        raw = bits.random_raw(int(np.prod(shape))) >> np.uint64(40)
        return (raw.astype(np.float32) / np.float32(1 << 23) - 1).reshape(shape)

    geometry = families.geometry(config, name="tiny")
    spread = {"norm": 0.5, "bias": 0.5, "embedding": 1.0, "sinks": 2.0}
    return {
        p.name: (np.float32(p.kind == "norm") + uniform(p.shape) * np.float32(spread.get(p.kind, 0.4)))
        for p in geometry.parameters
    }


def decoder_tokens(config, count=40):
    """Random tokens of the vocabulary, the same with every numpy."""
    return (np.random.PCG64(7).random_raw(count) % np.uint64(config["vocab_size"])).astype(np.int64)


def write_decoder(folder: Path, config, tensors=None):
    """Write a checkpoint folder without a tokenizer; its weights are random unless ``tensors`` are given."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(decoder_weights(config) if tensors is None else tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


END = 256  # the talker's end token; below are the bytes
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"


def write_talker(folder: Path, says: str, *, after: str = "?", template: str | None = None, context: int = 64):
    """Write a model that says ``says``, byte by byte, after the text ``after``, and then ends.

    No byte may come twice: the next token is a function of the last, because all layers add nothing.
    """
    size = END + 8
    config = decoder_config(
        "llama",
        vocab_size=size,
        hidden_size=size,
        num_hidden_layers=1,
        eos_token_id=END,
        max_position_embeddings=context,
    )
    tensors = {name: np.zeros_like(array) for name, array in decoder_weights(config).items()}
    tensors["model.norm.weight"] += 1
    tensors["model.embed_tokens.weight"] += np.eye(size, dtype=np.float32)
    first = END + 3 if template else after.encode()[-1]
    chain = [first, *says.encode(), END]
    assert len(set(chain)) == len(chain)
    for token, following in pairwise(chain):
        tensors["lm_head.weight"][following, token] = 1
    write_decoder(folder, config, tensors)
    _byte_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|end|>"} | ({"chat_template": template} if template else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def _byte_tokenizer():
    alphabet = bytes_to_unicode()
    tokenizer = Tokenizer(models.BPE(vocab={alphabet[byte]: byte for byte in range(256)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"])
    return tokenizer


def bytes_to_unicode():
    """The visible character that stands for each byte in byte-level BPE, as GPT-2 numbers them."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + index) for index, byte in enumerate(hidden)}
