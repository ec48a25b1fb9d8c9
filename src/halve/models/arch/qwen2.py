"""Qwen2 and Qwen2.5, with and without experts, and their vision-language models."""

from halve.models.arch.base import ATTENTION, LLAMA_FUSED, MLP, MOE, UP, VALUES, Family, Packing, Wrapper

FAMILIES = (
    Family(
        name="qwen2",
        model_types=("qwen2", "qwen2_vl_text", "qwen2_5_vl_text"),
        branches=(ATTENTION, MLP),
        flows=(VALUES, UP),
        fused=LLAMA_FUSED,
    ),
    Family(
        name="qwen2_moe",
        model_types=("qwen2_moe",),
        branches=(ATTENTION, MOE),
        flows=(VALUES, UP),
        fused=LLAMA_FUSED,
        packing=Packing(),
    ),
    Wrapper(name="qwen2_vl", model_types=("qwen2_vl", "qwen2_5_vl"), towers=("visual",), language="qwen2"),
)
