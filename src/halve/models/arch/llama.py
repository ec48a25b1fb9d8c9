"""Llama 2 and 3, and what is built like them: SmolLM and SmolLM2 among others, which call themselves llama."""

from halve.models.arch.base import ATTENTION, LLAMA_FUSED, MLP, UP, VALUES, Family

FAMILIES = (
    Family(
        name="llama",
        model_types=("llama",),
        branches=(ATTENTION, MLP),
        flows=(VALUES, UP),
        fused=LLAMA_FUSED,
    ),
)
