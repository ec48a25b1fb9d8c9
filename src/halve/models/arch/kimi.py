"""Vision-language models around Kimi-K2, which is DeepSeek-V3 in Moonshot's own code (see deepseek.py)."""

from halve.models.arch.base import Wrapper

FAMILIES = (
    Wrapper(
        name="kimi_k25",
        model_types=("kimi_k25",),
        guessed=("kimi_vl",),
        towers=("vision_tower", "mm_projector", "multi_modal_projector"),
        language="kimi_k2",
    ),
)
