"""Phi-3 and Phi-4, whose q, k and v, and gate and up, are one weight each; Phi-3.5-MoE, whose norms have a bias."""

from halve.models.arch.base import (
    ATTENTION,
    FUSED_UP,
    FUSED_VALUES,
    MIXTRAL_FUSED,
    MIXTRAL_MOE,
    MIXTRAL_PACKING,
    VALUES,
    W3,
    Branch,
    Family,
)

FAMILIES = (
    Family(
        name="phi3",
        model_types=("phi3",),
        branches=(
            Branch(norm="input_layernorm", reads=(r"self_attn\.qkv_proj",), inner=(r"self_attn\.o_proj",)),
            Branch(norm="post_attention_layernorm", reads=(r"mlp\.gate_up_proj",), inner=(r"mlp\.down_proj",)),
        ),
        flows=(FUSED_VALUES, FUSED_UP),
        fused={},
    ),
    Family(
        name="phimoe",
        model_types=("phimoe",),
        branches=(ATTENTION, MIXTRAL_MOE),
        flows=(VALUES, W3),
        fused=MIXTRAL_FUSED,
        packing=MIXTRAL_PACKING,
    ),
)
