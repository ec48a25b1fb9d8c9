"""Llama 4, alone and with its vision tower. A layer's experts are one tensor [experts, in, out], gate before up."""

from halve.models.arch.base import ATTENTION, LLAMA_FUSED, UP, VALUES, Branch, Family, Packing, Wrapper

FAMILIES = (
    Family(
        name="llama4",
        model_types=("llama4_text",),
        branches=(
            ATTENTION,
            Branch(
                norm="post_attention_layernorm",
                reads=(
                    r"feed_forward\.((experts\.\d+|shared_expert)\.)?(gate|up)_proj",
                    r"feed_forward\.router",
                ),
                inner=(r"feed_forward\.((experts\.\d+|shared_expert)\.)?down_proj",),
            ),
        ),
        flows=(VALUES, UP),
        fused=LLAMA_FUSED,
        packing=Packing(transposed=True),
    ),
    Wrapper(
        name="llama4",
        model_types=("llama4",),
        towers=("vision_model", "multi_modal_projector"),
        language="llama4_text",
    ),
)
