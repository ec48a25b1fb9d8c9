"""Linear layers that serving engines run as one, and which therefore share one tensor scale."""

_FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
    "w1": "w13",
    "w3": "w13",
    "q_a_proj": "fused_qkv_a_proj",
    "kv_a_proj_with_mqa": "fused_qkv_a_proj",
}


def fused_group(tensor: str) -> str:
    """Name of the fused layer that ``tensor`` becomes a part of; its own module where it stands alone.

    >>> fused_group("model.layers.0.self_attn.k_proj.weight")
    'model.layers.0.self_attn.qkv_proj'
    """
    module = tensor.removesuffix(".weight")
    parent, _, leaf = module.rpartition(".")
    return f"{parent}.{_FUSED[leaf]}" if leaf in _FUSED else module
