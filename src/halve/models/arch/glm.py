"""GLM-4 and its predecessor, GLM-4.5 to 4.7 (experts; the Flash models with latent attention), GLM-5, and GLM-4V.

GLM-4 has norms on what a branch puts out, ``post_self_attn_layernorm`` and ``post_mlp_layernorm``, beside those before.
"""

from halve.models.arch.base import (
    ATTENTION,
    FUSED_UP,
    LATENT,
    LATENT_FUSED,
    LLAMA_FUSED,
    MOE,
    NEXT_TOKEN,
    SPARSE_LATENT,
    UP,
    VALUES,
    Branch,
    Family,
    Packing,
    Wrapper,
)
from halve.models.fused import QKV

FAMILIES = (
    Family(
        name="glm4",
        model_types=("glm", "glm4", "glm4v_text"),
        branches=(
            ATTENTION,
            Branch(norm="post_attention_layernorm", reads=(r"mlp\.gate_up_proj",), inner=(r"mlp\.down_proj",)),
        ),
        flows=(VALUES, FUSED_UP),
        fused=QKV,
    ),
    Family(
        name="glm4_moe",
        model_types=("glm4_moe", "glm4v_moe_text"),
        branches=(ATTENTION, MOE),
        flows=(VALUES, UP),
        fused=LLAMA_FUSED,
        kept=NEXT_TOKEN,
        packing=Packing(),
    ),
    Family(
        name="glm4_moe_lite",
        model_types=("glm4_moe_lite",),
        branches=(*LATENT, MOE),
        flows=(UP,),
        fused=LATENT_FUSED,
        kept=NEXT_TOKEN,
        packing=Packing(),
    ),
    Family(
        name="glm_moe_dsa",
        model_types=("glm_moe_dsa",),
        branches=(*SPARSE_LATENT, MOE),
        flows=(UP,),
        fused=LATENT_FUSED,
        kept=NEXT_TOKEN,
        packing=Packing(),
    ),
    Wrapper(name="glm4v", model_types=("glm4v",), towers=("visual",), language="glm4v_text"),
    Wrapper(name="glm4v_moe", model_types=("glm4v_moe",), towers=("visual",), language="glm4v_moe_text"),
)
