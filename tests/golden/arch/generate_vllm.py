"""Write vllm.json: which linear layers vLLM makes one of, by the files of its models.

    pip download --no-deps vllm==0.32.0 && unzip -q vllm-*.whl -d vllm-0.32.0
    python tests/golden/arch/generate_vllm.py vllm-0.32.0/vllm

The source is parsed, nothing of vLLM runs. Its loaders say it in three ways: (parameter, weight, shard), weight:
(parameter, shard), and packed_modules_mapping, parameter: [weights].
"""

import ast
import json
import sys
from pathlib import Path

GOLDEN = Path(__file__).with_name("vllm.json")
MODELS = "model_executor/models"
# what halve calls the family -> where vLLM has it
FILES = {
    "llama": f"{MODELS}/llama.py",
    "llama4": f"{MODELS}/llama4.py",
    "mistral": f"{MODELS}/llama.py",  # MistralForCausalLM derives from LlamaForCausalLM
    "mixtral": f"{MODELS}/mixtral.py",
    "qwen2": f"{MODELS}/qwen2.py",
    "qwen2_moe": f"{MODELS}/qwen2_moe.py",
    "qwen3": f"{MODELS}/qwen3.py",
    "qwen3_moe": f"{MODELS}/qwen3_moe.py",
    "qwen3_vl_moe": f"{MODELS}/qwen3_moe.py",
    "qwen3_next": f"{MODELS}/qwen3_next.py",
    "qwen3_5": f"{MODELS}/qwen3_5.py",
    "qwen3_5_moe": f"{MODELS}/qwen3_5.py",
    "gemma": f"{MODELS}/gemma.py",
    "gemma2": f"{MODELS}/gemma3.py",
    "phi3": f"{MODELS}/phi3.py",
    "phimoe": f"{MODELS}/phimoe.py",
    "gpt_oss": f"{MODELS}/gpt_oss.py",
    "deepseek_v3": f"{MODELS}/deepseek_v2.py",
    "deepseek_v32": "models/deepseek_v32/nvidia/model.py",
    "glm4": f"{MODELS}/glm4.py",
    "glm4_moe": f"{MODELS}/glm4_moe.py",
    "glm4_moe_lite": f"{MODELS}/glm4_moe_lite.py",
    "glm_moe_dsa": "models/deepseek_v32/nvidia/model.py",
    "minimax_m2": f"{MODELS}/minimax_m2.py",
    "minimax_m3": "models/minimax_m3/nvidia/model.py",
}


def leaf(name):
    """The last part of a module's name."""
    return name.strip(".").rpartition(".")[2]


def strings(nodes):
    """The strings that ``nodes`` are; None where one is something else."""
    found = [node.value if isinstance(node, ast.Constant) else None for node in nodes]
    return found if all(isinstance(value, str) for value in found) else None


def fused(source):
    """Last part of a weight's name -> that of the parameter that it becomes a part of."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Tuple) and len(node.elts) == 3 and (pair := strings(node.elts[:2])):
            found[leaf(pair[1])] = leaf(pair[0])
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
                    continue
                if isinstance(value, ast.Tuple) and (parameter := strings(value.elts[:1])):
                    found[leaf(key.value)] = leaf(parameter[0])
                elif isinstance(value, ast.List) and value.elts and (weights := strings(value.elts)):
                    found |= {leaf(weight): leaf(key.value) for weight in weights}
    # what is no layer of several has other names: classes, and w1 for an expert's first
    layers = {weight: layer for weight, layer in found.items() if "_" in layer and layer.islower() and weight != layer}
    return dict(sorted(layers.items()))


def main(package):
    """Write what the source in the folder ``package`` says."""
    families = {family: fused((package / file).read_text()) for family, file in FILES.items()}
    GOLDEN.write_text(json.dumps({"vllm": "0.32.0", "families": families}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
