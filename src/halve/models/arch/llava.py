"""Vision-language models whose parts are all called alike: LLaVA, Mistral Small 3, PaliGemma, InternVL 3."""

from halve.models.arch.base import Wrapper

FAMILIES = (
    Wrapper(
        name="llava",
        model_types=(
            "llava",
            "llava_next",
            "llava_onevision",
            "vipllava",
            "mistral3",
            "paligemma",
            "internvl",
        ),
        guessed=("llava_next_video",),
        towers=("vision_tower", "multi_modal_projector"),
        language="llama",
    ),
)
