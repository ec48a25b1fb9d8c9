"""gpt-oss. Rows of gate and up take turns in ``gate_up_proj``, and every engine that reads it wants it whole.

``experts.<e>.gate_up_proj.weight`` is what the gpt-oss layout and vLLM's reader of Quark call it; biases stay the
[experts, out] tensors that both read. What up puts out is clamped and has 1 added: no factor can be moved through it.
"""

from halve.models.arch.base import ATTENTION, VALUES, Branch, Family, Packing
from halve.models.fused import QKV

FAMILIES = (
    Family(
        name="gpt_oss",
        model_types=("gpt_oss",),
        branches=(
            ATTENTION,
            Branch(
                norm="post_attention_layernorm",
                reads=(r"mlp\.experts\.\d+\.gate_up_proj", r"mlp\.router"),
                inner=(r"mlp\.experts\.\d+\.down_proj",),
            ),
        ),
        flows=(VALUES,),
        fused=QKV,
        packing=Packing(transposed=True, gate_up=("gate_up_proj",)),
    ),
)
