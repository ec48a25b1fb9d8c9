"""Linear layers that serving engines run as one, and which therefore share one tensor scale.

The names on the right are vLLM's (0.32, `packed_modules_mapping` and the stacked parameters of its loaders). What is
here is common to many architectures; `halve.models.arch` says which of it holds for one.
"""

QKV = {"q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj"}
GATE_UP = {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj"}
W13 = {"w1": "w13", "w3": "w13"}  # gate and up of Mixtral's experts
QKV_A = {"q_a_proj": "fused_qkv_a_proj", "kv_a_proj_with_mqa": "fused_qkv_a_proj"}  # of latent attention
EVERYWHERE = QKV | GATE_UP | W13 | QKV_A


def fused_group(tensor: str) -> str:
    """Name of the fused layer that ``tensor`` becomes a part of; its own module where it stands alone.

    >>> fused_group("model.layers.0.self_attn.k_proj.weight")
    'model.layers.0.self_attn.qkv_proj'
    """
    module = tensor.removesuffix(".weight")
    parent, _, leaf = module.rpartition(".")
    return f"{parent}.{EVERYWHERE[leaf]}" if leaf in EVERYWHERE else module
