"""MiniMax-Text-01, M2 and M3.

In Text-01 a branch adds to what its norm puts out, so that no factor can be moved from norms. In M3 norms multiply by
1 + weight, what up puts out is clamped and has 1 added, and engines make one layer of q, k, v and the indexer's two.
"""

from halve.models.arch.base import (
    ATTENTION,
    MIXTRAL_FUSED,
    MIXTRAL_MOE,
    MIXTRAL_PACKING,
    VALUES,
    W3,
    Branch,
    Family,
    Wrapper,
)
from halve.models.fused import GATE_UP

FAMILIES = (
    Family(
        name="minimax",
        model_types=("minimax",),
        guessed=("minimax_text_01", "minimax_m1"),
        branches=(
            Branch(reads=(r"self_attn\.([qkv]_proj|qkv_proj|output_gate)",), inner=(r"self_attn\.(o_proj|out_proj)",)),
            Branch(reads=MIXTRAL_MOE.reads, inner=MIXTRAL_MOE.inner),
        ),
        flows=(VALUES, W3),
        fused=MIXTRAL_FUSED,
        packing=MIXTRAL_PACKING,
    ),
    Family(
        name="minimax_m2",
        model_types=("minimax_m2",),
        branches=(ATTENTION, MIXTRAL_MOE),
        flows=(VALUES, W3),
        fused=MIXTRAL_FUSED,
        packing=MIXTRAL_PACKING,
    ),
    Family(
        name="minimax_m3",
        model_types=("minimax_m3_vl_text",),
        branches=(
            Branch(
                norm="input_layernorm",
                reads=(r"self_attn\.([qkv]_proj|index_[qk]_proj|indexer\.[qk]_proj)",),
                inner=(r"self_attn\.o_proj",),
            ),
            Branch(
                norm="post_attention_layernorm",
                reads=(
                    *MIXTRAL_MOE.reads,
                    r"(block_sparse_moe|mlp)\.(shared_experts\.)?(gate|up|gate_up)_proj",
                ),
                inner=(*MIXTRAL_MOE.inner, r"(block_sparse_moe|mlp)\.(shared_experts\.)?down_proj"),
            ),
        ),
        flows=(VALUES,),
        fused=MIXTRAL_FUSED | GATE_UP | {"index_q_proj": "qkv_proj", "index_k_proj": "qkv_proj"},
        norm_offset=1.0,
        packing=MIXTRAL_PACKING,
    ),
    Wrapper(
        name="minimax_m3",
        model_types=("minimax_m3_vl",),
        towers=("vision_tower", "multi_modal_projector", "patch_merge_mlp"),
        language="minimax_m3_vl_text",
    ),
)
