"""Mistral and Ministral, Mixtral, Mistral 4 (latent attention; experts packed as transformers holds them)."""

from halve.models.arch.base import (
    ATTENTION,
    LATENT,
    LATENT_FUSED,
    LLAMA_FUSED,
    MIXTRAL_FUSED,
    MIXTRAL_MOE,
    MIXTRAL_PACKING,
    MLP,
    MOE,
    UP,
    VALUES,
    W3,
    Family,
    Packing,
)

FAMILIES = (
    Family(
        name="mistral",
        model_types=("mistral", "ministral", "ministral3"),
        branches=(ATTENTION, MLP),
        flows=(VALUES, UP),
        fused=LLAMA_FUSED,
    ),
    Family(
        name="mixtral",
        model_types=("mixtral",),
        branches=(ATTENTION, MIXTRAL_MOE),
        flows=(VALUES, W3),
        fused=MIXTRAL_FUSED,
        packing=MIXTRAL_PACKING,
    ),
    Family(
        name="mistral4",
        model_types=("mistral4",),
        branches=(*LATENT, MOE),
        flows=(UP,),
        fused=LATENT_FUSED,
        packing=Packing(),
    ),
)
