"""Which tensors of a checkpoint are weights of linear layers that lose little when quantized, by names of many models.

`halve.models.arch` adds what single architectures have beside these.
"""

import re

OUTPUT_HEAD = "lm_head"  # module name in every Hugging Face causal language model

KEPT = (  # what engines keep in 16 bits, and why, tried in this order
    (
        re.compile(
            r"(^|.*\.)(vision_tower|vision_model|vision_encoder|visual|image_tower|video_tower|audio_tower|audio_model"
            r"|multi_modal_projector|mm_projector|patch_merge_mlp|connector|embed_tokens_extend|embed_vision|embed_audio)\."
        ),
        "vision or audio",
    ),
    (re.compile(r"(^|.*\.)(lm_head|embed_out|score|classifier)\.weight$"), "output head"),
    (
        re.compile(r"(^|.*\.)(embed_tokens|embed_positions|wte|wpe|embeddings?|\w+_embeddings?)(\.\w+)*\.weight$"),
        "embedding",
    ),
    (
        re.compile(
            r".*\.(mlp\.gate|block_sparse_moe\.gate|shared_expert_gate|router|feed_forward\.router|gate)\.weight$"
        ),
        "router",
    ),
    (re.compile(r".*norm\w*\.weight$"), "norm"),
    (re.compile(r".*\.conv\w*\.weight$"), "convolution"),
)


def why_kept(tensor: str, dimensions: int) -> str:
    """Why ``tensor`` stays in its source type; empty where it is the weight of a linear layer.

    By name, as engines do (vLLM quantizes ``Linear`` modules except ``lm_head``), and by shape: a linear weight has two
    dimensions and is called ``*.weight``.
    """
    if not tensor.endswith(".weight"):
        return "not a weight"
    if dimensions != 2:
        return f"{dimensions}-D"
    for pattern, reason in KEPT:
        if pattern.match(tensor):
            return reason
    return ""
