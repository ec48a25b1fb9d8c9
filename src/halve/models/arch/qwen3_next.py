"""Qwen3-Next and Qwen3.5: three of four layers have linear attention, norms multiply by 1 + weight.

The gate of full attention multiplies what goes into o_proj, and is more rows of q_proj. What decides how much linear
attention forgets (``in_proj_a``, ``in_proj_b``) is a handful of rows, which Qwen's own FP8 checkpoints keep.
"""

from dataclasses import replace

from halve.models.arch.base import ATTENTION, LLAMA_FUSED, MLP, MOE, UP, VALUES, Branch, Family, Packing, Wrapper

_LINEAR_ATTENTION = Branch(
    norm="input_layernorm",
    reads=(r"linear_attn\.in_proj_(qkvz|ba|qkv|z|b|a)",),
    inner=(r"linear_attn\.(out_proj|conv1d)",),
    kept={r"linear_attn\.in_proj_(ba|b|a)": "gate of linear attention"},
)
_FUSED = LLAMA_FUSED | {
    "in_proj_qkv": "in_proj_qkvz",
    "in_proj_z": "in_proj_qkvz",
    "in_proj_b": "in_proj_ba",
    "in_proj_a": "in_proj_ba",
}
_NEXT = Family(
    name="qwen3_next",
    model_types=("qwen3_next",),
    branches=(_LINEAR_ATTENTION, ATTENTION, MOE),
    flows=(VALUES, UP),
    fused=LLAMA_FUSED,
    kept={r"(.*\.)?mtp\.fc": "multi-token prediction"},
    norm_offset=1.0,
    packing=Packing(),
)

FAMILIES = (
    _NEXT,
    replace(
        _NEXT,
        name="qwen3_5",
        model_types=("qwen3_5_text",),
        branches=(_LINEAR_ATTENTION, ATTENTION, MLP),
        fused=_FUSED,
        packing=None,
    ),
    replace(_NEXT, name="qwen3_5_moe", model_types=("qwen3_5_moe_text",), fused=_FUSED),
    Wrapper(name="qwen3_5", model_types=("qwen3_5",), towers=("visual",), language="qwen3_5_text"),
    Wrapper(name="qwen3_5_moe", model_types=("qwen3_5_moe",), towers=("visual",), language="qwen3_5_moe_text"),
)
