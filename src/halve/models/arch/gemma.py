"""Gemma 1 to 3. Norms multiply by 1 + weight; from Gemma 2 on there are also norms on what a branch puts out."""

from dataclasses import replace

from halve.models.arch.base import ATTENTION, LLAMA_FUSED, MLP, UP, VALUES, Family, Wrapper

_GEMMA = Family(
    name="gemma",
    model_types=("gemma",),
    branches=(ATTENTION, MLP),
    flows=(VALUES, UP),
    fused=LLAMA_FUSED,
    norm_offset=1.0,
)

FAMILIES = (
    _GEMMA,
    replace(
        _GEMMA,
        name="gemma2",
        model_types=("gemma2", "gemma3_text"),
        branches=(ATTENTION, replace(MLP, norm="pre_feedforward_layernorm")),
    ),
    Wrapper(
        name="gemma3",
        model_types=("gemma3",),
        towers=("vision_tower", "multi_modal_projector"),
        language="gemma3_text",
    ),
)
