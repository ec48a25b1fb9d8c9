"""Tiny checkpoints of every family that the runtime knows, with random weights; `tiny.llama` has those of Llama's."""

import json
import re
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from halve.models import families
from tiny import llama

_GEMMA = {"hidden_act": None, "hidden_activation": "gelu_pytorch_tanh", "head_dim": 16, "tie_word_embeddings": None}
_GEMMA |= {"sliding_window": 7, "query_pre_attn_scalar": 24}
_GEMMA2 = _GEMMA | {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2"}
_GEMMA3 = _GEMMA | {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}
_PHI3 = {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "head_dim": None, "pad_token_id": 0}
_LONGROPE = {"short_factor": [1.0, 1.25, 1.5, 2.0], "long_factor": [1.5, 2.0, 4.0, 8.0]}
_QWEN3_MOE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "head_dim": 16,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
}
_GPT_OSS = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "intermediate_size": 64,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "sliding_window": 7,
}
BEYOND = {  # what Llama's family has not; tests/golden/runtime holds transformers' logits
    "gemma2": _GEMMA2 | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma2_uncapped": _GEMMA2 | {"tie_word_embeddings": False, "attention_bias": True, "attn_logit_softcapping": 1e6},
    "gemma3": _GEMMA3
    | {
        "rope_theta": 5000.0,
        "rope_local_base_freq": 100.0,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        "sliding_window_pattern": 3,
    },
    "gemma3_parameters": _GEMMA3
    | {
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 3000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
        },
        "final_logit_softcapping": 25.0,
    },
    "phi3": _PHI3 | {"sliding_window": 7, "rope_theta": 1000.0},
    "phi3_partial": _PHI3 | {"partial_rotary_factor": 0.75, "tie_word_embeddings": True},
    "phi3_long": _PHI3 | {"original_max_position_embeddings": 16, "rope_scaling": _LONGROPE | {"type": "longrope"}},
    "phi3_short": _PHI3 | {"original_max_position_embeddings": 48, "rope_scaling": _LONGROPE | {"type": "longrope"}},
    "qwen3_moe": _QWEN3_MOE | {"norm_topk_prob": True},
    "qwen3_moe_mixed": _QWEN3_MOE
    | {
        "mlp_only_layers": [1],
        "tie_word_embeddings": True,
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": 7,
    },
    "gpt_oss": _GPT_OSS | {"rope_theta": 150000.0, "rope_scaling": llama.YARN | {"beta_slow": 0.5, "truncate": False}},
    "gpt_oss_default": _GPT_OSS | {"layer_types": ["full_attention"] * 2 + ["sliding_attention"], "swiglu_limit": 7.0},
}
DECODERS = llama.DECODERS | BEYOND

_EXPERT = re.compile(r"(?P<experts>.+\.experts)\.(?P<expert>\d+)\.(?P<projection>\w+)\.weight")
_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_BLOCK = 32


def config_of(name, **changes):
    """config.json of one of ``DECODERS``."""
    settings = llama.SMALL | DECODERS[name] | changes
    return {key: value for key, value in settings.items() if value is not None}


def weights(config, seed=0):
    """Random float32 tensors, experts as a matrix each; those of gpt-oss are values that MXFP4 has."""
    tensors = llama.decoder_weights(config, seed)
    if config["model_type"] == "gpt_oss":
        bits = np.random.PCG64(seed + 1)
        for name in filter(_EXPERT.fullmatch, tensors):
            tensors[name] = _on_grid(bits, tensors[name].shape)
    return tensors


def stacked(config, tensors):
    """The same with the matrices of all experts of a layer in one tensor, as transformers 5 has them."""
    found, stacks = {}, {}
    for name, array in tensors.items():
        if match := _EXPERT.fullmatch(name):
            stacks.setdefault(match["experts"], {}).setdefault(match["projection"], []).append(array)
        else:
            found[name] = array
    for experts, parts in stacks.items():
        if config["model_type"] == "gpt_oss":
            whole = {name: np.stack(of_it).swapaxes(1, 2) for name, of_it in parts.items()}
        else:
            gate_up = np.concatenate([np.stack(parts["gate_proj"]), np.stack(parts["up_proj"])], 1)
            whole = {"gate_up_proj": gate_up, "down_proj": np.stack(parts["down_proj"])}
        found |= {f"{experts}.{name}": np.ascontiguousarray(array) for name, array in whole.items()}
    return found


def mxfp4(tensors):
    """gpt-oss with its experts in MXFP4, as published: blocks [E, out, in / 32, 16] and scales [E, out, in / 32]."""
    found, stacks = {}, {}
    for name, array in tensors.items():
        if match := _EXPERT.fullmatch(name):
            stacks.setdefault(f"{match['experts']}.{match['projection']}", []).append(array)
        else:
            found[name] = array
    for name, of_it in stacks.items():
        found[f"{name}_blocks"], found[f"{name}_scales"] = _encoded(np.stack(of_it).astype(np.float32))
    return found


def write(folder: Path, config, tensors=None):
    """Write a checkpoint folder as the model's maker does: experts of gpt-oss in one tensor, others in one each."""
    if tensors is None:
        tensors = weights(config)
        tensors = stacked(config, tensors) if config["model_type"] == "gpt_oss" else tensors
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_mxfp4(folder: Path, config, tensors):
    """Write gpt-oss with packed experts."""
    settings = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    return write(folder, config | {"quantization_config": settings}, mxfp4(tensors))


def linears(config):
    """Names of the linear layers in the order in which they run when every expert does."""
    geometry = families.geometry(config, name="tiny")
    names = [p.name.removesuffix(".weight") for p in geometry.parameters if p.kind in ("linear", "router")]
    return [*names, "lm_head"]


def _on_grid(bits, shape):
    raw = bits.random_raw(int(np.prod(shape)))
    values = np.where(raw >> np.uint64(63), -1, 1).astype(np.float32) * _E2M1[(raw >> np.uint64(40)) & np.uint64(7)]
    exponents = -4 - (raw.reshape(-1, _BLOCK)[:, :1] & np.uint64(1)).astype(np.float32)
    return (values.reshape(-1, _BLOCK) * np.exp2(exponents)).reshape(shape)


def _encoded(stack):
    """Blocks and scales of a stack [E, out, in] of values that MXFP4 has."""
    blocks = stack.reshape(*stack.shape[:-1], -1, _BLOCK)
    amax = np.abs(blocks).max(-1, keepdims=True)
    exponents = np.floor(np.log2(np.where(amax, amax, 1))) - 2
    scaled = blocks / np.exp2(exponents)
    codes = np.searchsorted(_E2M1, np.abs(scaled))
    assert (_E2M1[codes] == np.abs(scaled)).all()
    codes = (codes | np.where(scaled < 0, 8, 0)).astype(np.uint8)
    return codes[..., ::2] | codes[..., 1::2] << 4, (exponents[..., 0] + 127).astype(np.uint8)
