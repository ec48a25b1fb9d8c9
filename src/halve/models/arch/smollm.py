"""SmolLM3; SmolVLM and Idefics 3 around a language model of the Llama family. SmolLM and SmolLM2 are llama."""

from halve.models.arch.base import ATTENTION, LLAMA_FUSED, MLP, UP, VALUES, Family, Wrapper

FAMILIES = (
    Family(
        name="smollm3",
        model_types=("smollm3",),
        branches=(ATTENTION, MLP),
        flows=(VALUES, UP),
        fused=LLAMA_FUSED,
    ),
    Wrapper(
        name="smolvlm",
        model_types=("smolvlm", "idefics3"),
        towers=("vision_model", "connector"),
        language="llama",
    ),
)
