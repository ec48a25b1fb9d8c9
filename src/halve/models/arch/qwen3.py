"""Qwen3, with and without experts, and its vision-language models. Queries and keys have norms, values have none."""

from halve.models.arch.base import ATTENTION, LLAMA_FUSED, MLP, MOE, UP, VALUES, Family, Packing, Wrapper

FAMILIES = (
    Family(
        name="qwen3",
        model_types=("qwen3", "qwen3_vl_text"),
        branches=(ATTENTION, MLP),
        flows=(VALUES, UP),
        fused=LLAMA_FUSED,
    ),
    Family(
        name="qwen3_moe",
        model_types=("qwen3_moe",),
        branches=(ATTENTION, MOE),
        flows=(VALUES, UP),
        fused=LLAMA_FUSED,
        packing=Packing(),
    ),
    Family(
        name="qwen3_vl_moe",
        model_types=("qwen3_vl_moe_text",),
        branches=(ATTENTION, MOE),
        flows=(VALUES, UP),
        fused=LLAMA_FUSED,
        packing=Packing(transposed=True),  # as published; what transformers 5 saves is not
    ),
    Wrapper(name="qwen3_vl", model_types=("qwen3_vl",), towers=("visual",), language="qwen3"),
    Wrapper(name="qwen3_vl_moe", model_types=("qwen3_vl_moe",), towers=("visual",), language="qwen3_vl_moe_text"),
)
