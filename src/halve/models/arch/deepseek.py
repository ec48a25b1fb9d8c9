"""DeepSeek-V2, V3, R1 (V3 by its config) and V3.2, and Kimi-K2 in the names of V3.

No factor is moved from values to o_proj: values are rows of ``kv_b_proj`` that take turns with those of keys.
"""

from halve.models.arch.base import LATENT, LATENT_FUSED, MOE, NEXT_TOKEN, SPARSE_LATENT, UP, Family, Packing

FAMILIES = (
    Family(
        name="deepseek_v3",
        model_types=("deepseek_v2", "deepseek_v3"),
        guessed=("kimi_k2",),
        branches=(*LATENT, MOE),
        flows=(UP,),
        fused=LATENT_FUSED,
        kept=NEXT_TOKEN,
        packing=Packing(),
    ),
    Family(
        name="deepseek_v32",
        model_types=("deepseek_v32",),
        branches=(*SPARSE_LATENT, MOE),
        flows=(UP,),
        fused=LATENT_FUSED,
        kept=NEXT_TOKEN,
        packing=Packing(),
    ),
)
