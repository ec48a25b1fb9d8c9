"""Write transformers.json: the weights of a tiny model of each architecture, as transformers names and saves them.

    pip install torch==2.13.0 transformers==5.17.0
    python tests/golden/arch/generate.py

Nothing of halve is imported. A weight is its name, the class of the module that it belongs to, and its shape. What a
class packs (experts) or renames in memory is told from what `save_pretrained` writes by a number that each parameter is
filled with: ``saved`` are the names of published checkpoints, ``memory`` those of the state dict, where they differ.
Numbers that count up are folded into ranges: ``layers.[0-1].mlp`` is two weights.
"""

import json
import re
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

GOLDEN = Path(__file__).with_name("transformers.json")
COMMON = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
SCALED_ROPE = ROPE | {"original_max_position_embeddings": 64, "llama_4_scaling_beta": 0.1}
HALF_ROPE = ROPE | {"partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}
MOE = {
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 56,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
}
EXPERTS = MOE | {"num_experts": 3}
LOCAL_EXPERTS = MOE | {"num_local_experts": 3}
ROUTED_EXPERTS = MOE | {"n_routed_experts": 3, "first_k_dense_replace": 1}
LATENT = {
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "head_dim": 8,  # of what is rotated
    "num_key_value_heads": 4,
}
INDEXER = {"index_head_dim": 16, "index_n_heads": 2, "index_topk": 4}
HYBRID = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 1,
    "depth": 1,
    "num_attention_heads": 2,
    "num_heads": 2,
    "image_size": 16,
    "patch_size": 8,
    "embed_dim": 32,
    "out_hidden_size": 64,
}
CLIP = VISION | {"model_type": "clip_vision_model"}
SIGLIP = VISION | {"model_type": "siglip_vision_model"}
LLAVA = {"image_token_index": 5, "vision_feature_layer": -1}
POSITIONS = {"num_position_embeddings": 4, "deepstack_visual_indexes": [0]}

# model type of config.json -> what makes its default configuration tiny
TEXT = {
    "llama": {},
    "mistral": {},
    "ministral": {},
    "ministral3": {},
    "mistral4": ROUTED_EXPERTS | LATENT | {"first_k_dense_replace": 0, "rope_parameters": SCALED_ROPE},
    "mixtral": LOCAL_EXPERTS,
    "qwen2": {},
    "qwen2_moe": EXPERTS,
    "qwen3": {},
    "qwen3_moe": EXPERTS,
    "qwen3_next": EXPERTS | HYBRID,
    "qwen3_5_text": HYBRID,
    "qwen3_5_moe_text": EXPERTS | HYBRID,
    "gemma": {},
    "gemma2": {},
    "gemma3_text": {},
    "phi3": {},
    "phimoe": LOCAL_EXPERTS,
    "gpt_oss": LOCAL_EXPERTS,
    "deepseek_v2": ROUTED_EXPERTS | LATENT,
    "deepseek_v3": ROUTED_EXPERTS | LATENT,
    "deepseek_v32": ROUTED_EXPERTS | LATENT | INDEXER,
    "glm": {},
    "glm4": {},
    "glm4_moe": ROUTED_EXPERTS,
    "glm4_moe_lite": ROUTED_EXPERTS | LATENT,
    "glm_moe_dsa": ROUTED_EXPERTS | LATENT | INDEXER,
    "minimax": LOCAL_EXPERTS | {"layer_types": ["full_attention", "linear_attention"], "block_size": 8},
    "minimax_m2": LOCAL_EXPERTS,
    "smollm3": {},
    "llama4_text": LOCAL_EXPERTS | {"intermediate_size_mlp": 72, "moe_layers": [1]},
}
# the same of vision-language models: language model, vision tower, the rest
VISION_LANGUAGE = {
    "llava": ("llama", {}, CLIP, LLAVA),
    "llava_next": ("mistral", {}, CLIP, LLAVA),
    "llava_onevision": ("qwen2", {}, SIGLIP, LLAVA),
    "vipllava": ("llama", {}, CLIP, {"image_token_index": 5, "vision_feature_layers": [-1]}),
    "mistral3": ("mistral", {}, VISION | {"model_type": "pixtral", "head_dim": 16}, LLAVA),
    "paligemma": ("gemma", {}, SIGLIP, {"projection_dim": 64, "image_token_index": 5}),
    "internvl": (
        "qwen2",
        {},
        VISION | {"model_type": "internvl_vision", "image_size": [16, 16], "patch_size": [8, 8]},
        {},
    ),
    "idefics3": ("llama", {}, VISION | {"model_type": "idefics3_vision"}, {"scale_factor": 2}),
    "smolvlm": ("llama", {}, VISION | {"model_type": "smolvlm_vision"}, {"scale_factor": 2}),
    "gemma3": ("gemma3_text", {}, SIGLIP, {"mm_tokens_per_image": 4}),
    "llama4": (
        "llama4_text",
        TEXT["llama4_text"],
        VISION
        | {
            "model_type": "llama4_vision_model",
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
        },
        {},
    ),
    "qwen2_vl": ("qwen2_vl_text", {"rope_parameters": ROPE | {"mrope_section": [2, 3, 3]}}, VISION, {}),
    "qwen2_5_vl": ("qwen2_5_vl_text", {"rope_parameters": ROPE | {"mrope_section": [2, 3, 3]}}, VISION, {}),
    "qwen3_vl": ("qwen3_vl_text", {}, VISION | POSITIONS, {}),
    "qwen3_vl_moe": ("qwen3_vl_moe_text", EXPERTS, VISION | POSITIONS, {}),
    "qwen3_5": ("qwen3_5_text", HYBRID, VISION | POSITIONS, {}),
    "qwen3_5_moe": ("qwen3_5_moe_text", EXPERTS | HYBRID, VISION | POSITIONS, {}),
    "glm4v": ("glm4v_text", {"rope_parameters": HALF_ROPE}, VISION, {}),
    "glm4v_moe": ("glm4v_moe_text", ROUTED_EXPERTS | {"rope_parameters": HALF_ROPE}, VISION, {}),
    "kimi_k25": ("deepseek_v3", ROUTED_EXPERTS | LATENT, VISION, {}),
    "minimax_m3_vl": (
        "minimax_m3_vl_text",
        LOCAL_EXPERTS
        | INDEXER
        | {
            "dense_intermediate_size": 72,
            "shared_intermediate_size": 56,
            "mlp_layer_types": ["dense", "sparse"],
            "layer_types": ["full_attention", "minimax_m3_sparse"],
            "index_block_size": 4,
            "index_topk_blocks": 2,
        },
        VISION,
        {},
    ),
}
MODEL_TYPES = (*TEXT, *VISION_LANGUAGE)
# transformers 5.17 saves layers of this one's language model as `blocks`: its renaming of the vision tower goes too far
NOT_AS_PUBLISHED = ("kimi_k25",)
NUMBER = r"(?<=\.)\d+(?=\.)"
FIRST = 1000  # no buffer is filled with such numbers
# what arch.of and its methods look at
CONFIG_KEYS = ("model_type", "hidden_size", "num_attention_heads", "num_key_value_heads")


def build(model_type):
    """A tiny model of ``model_type`` with random weights."""
    torch.manual_seed(0)
    if model_type in TEXT:
        config = AutoConfig.for_model(model_type, **(COMMON | TEXT[model_type]))
        # the language model of Mistral Small 4 is listed among those that see
        auto = AutoModelForImageTextToText if model_type == "mistral4" else AutoModelForCausalLM
        return auto.from_config(config)
    text, sizes, vision, rest = VISION_LANGUAGE[model_type]
    language = COMMON | sizes | {"model_type": text}
    config = AutoConfig.for_model(
        model_type, text_config=language, vision_config=vision, tie_word_embeddings=False, **rest
    )
    return AutoModelForImageTextToText.from_config(config)


def short(config):
    """The part of a config.json that tells an architecture."""
    found = {key: config[key] for key in CONFIG_KEYS if key in config}
    return found | (
        {"text_config": short(config["text_config"])} if isinstance(config.get("text_config"), dict) else {}
    )


def kinds(model):
    """Class of the module that each parameter belongs to, by its name; subclasses of Linear say so."""
    found = {}
    for name, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, torch.nn.Linear) and kind != "Linear":
            kind += "(Linear)"
        for parameter, _ in module.named_parameters(recurse=False):
            found[f"{name}.{parameter}"] = kind
    return found


def saved(model):
    """What `save_pretrained` writes: name -> shape and the parameter it comes from; fills the model with numbers."""
    names = {number: name for number, (name, _) in enumerate(model.named_parameters(), FIRST)}
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters(), FIRST):
            parameter.fill_(number)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        for file in Path(folder).glob("*.safetensors"):
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a mapping
                    tensor = tensors.get_tensor(name)
                    number = tensor.flatten()[0].item()
                    found[name] = tensor.shape, names.get(number, "")
    return found


def fact(kind, shape):
    """What a line says of a weight."""
    return f"{kind} {'x'.join(map(str, shape))}"


def folded(tensors):
    """Weights whose names differ in numbers only, as one line."""
    alike = {}
    for name, fact in tensors.items():
        alike.setdefault((re.sub(NUMBER, "#", name), fact), []).append(re.findall(NUMBER, name))
    lines = {}
    for (pattern, kind), numbers in alike.items():
        columns = [sorted(set(map(int, column))) for column in zip(*numbers, strict=True)]
        whole = 1
        for column in columns:
            whole *= column[-1] - column[0] + 1 if column == list(range(column[0], column[-1] + 1)) else 0
        if whole == len(numbers):
            parts = (f"[{c[0]}-{c[-1]}]" if len(c) > 1 else str(c[0]) for c in columns)
            lines[re.sub("#", lambda _, parts=parts: next(parts), pattern)] = kind
        else:
            for found in numbers:
                parts = iter(found)
                lines[re.sub("#", lambda _, parts=parts: next(parts), pattern)] = kind
    return lines


def described(model_type):
    """One architecture."""
    model = build(model_type)
    of = kinds(model)
    memory = {name: fact(of[name], parameter.shape) for name, parameter in model.named_parameters()}
    config = short(model.config.to_dict())
    case = {"class": type(model).__name__, "config": config}
    if model_type not in NOT_AS_PUBLISHED:
        files = {name: fact(of[origin], shape) for name, (shape, origin) in saved(model).items() if origin}
        case["saved"] = folded(files)
        if files.keys() == memory.keys():
            return case
    return case | {"memory": folded(memory)}


def main():
    """Write all."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    cases = {model_type: described(model_type) for model_type in MODEL_TYPES}
    text = json.dumps({"transformers": transformers.__version__, "architectures": cases}, indent=1)
    GOLDEN.write_text(text + "\n")


if __name__ == "__main__":
    main()
