"""Write one JSON file a quant_algo: what ModelOpt exports of a tiny Llama, and the values that it gives its codes.

    pip install torch==2.13.0 transformers==5.17.0 nvidia-modelopt==0.47.0 requests
    python tests/golden/layouts/modelopt/generate.py

Nothing of halve is imported. A file holds the two configs and the tensors of one layer's down_proj [32, 256] (of the
mixed export also q_proj, under another algorithm) as hex, and the sha256 of their values in BF16. ``source.json`` has
the weights.
"""

import copy
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export import export_hf_checkpoint
from modelopt.torch.export.quant_utils import from_quantized_weight
from modelopt.torch.quantization.qtensor import FP8QTensor, MXFP4QTensor, MXFP8QTensor, NVFP4QTensor
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
DTYPES = {torch.uint8: "U8", torch.float8_e4m3fn: "F8_E4M3", torch.float32: "F32", torch.bfloat16: "BF16"}
DOWN, QUERY = "model.layers.0.mlp.down_proj", "model.layers.0.self_attn.q_proj"
CONFIGS = {
    "NVFP4": mtq.NVFP4_DEFAULT_CFG,
    "W4A16_NVFP4": mtq.W4A16_NVFP4_CFG,
    "FP8": mtq.FP8_DEFAULT_CFG,
    "FP8_PER_CHANNEL_PER_TOKEN": mtq.FP8_PER_CHANNEL_PER_TOKEN_CFG,
    "FP8_PB_WO": mtq.FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG,
    "MXFP8": mtq.MXFP8_DEFAULT_CFG,
    "MXFP4": mtq.MXFP4_DEFAULT_CFG,
}


def mixed() -> dict[str, object]:
    """NVFP4 with FP8 in down_proj, as users of ModelOpt write it."""
    config = copy.deepcopy(mtq.NVFP4_DEFAULT_CFG)
    for kind in ("weight", "input"):
        rules = mtq.FP8_DEFAULT_CFG["quant_cfg"]
        rule = next(r for r in rules if r["quantizer_name"] == f"*{kind}_quantizer" and "cfg" in r)
        config["quant_cfg"].append({**rule, "quantizer_name": f"*down_proj*{kind}_quantizer"})
    return config


def source(folder: Path) -> None:
    """A Llama of one layer in BF16, from a seed."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=32,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=32,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def export(folder: Path, out: Path, config: dict[str, object]) -> None:
    """Calibrate on random tokens and export."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    torch.manual_seed(1)
    tokens = torch.randint(0, 8, (2, 16))
    with torch.inference_mode():
        export_hf_checkpoint(mtq.quantize(model, copy.deepcopy(config), lambda m: m(tokens)), export_dir=out)


def dequantized(module: str, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """The weight of ``module`` as ModelOpt's own classes dequantize it, in FP32 up to the last rounding."""
    codes, scale = tensors[f"{module}.weight"], tensors[f"{module}.weight_scale"]
    if f"{module}.weight_scale_2" in tensors:
        shape = torch.Size((codes.shape[0], codes.shape[1] * 2))
        double = tensors[f"{module}.weight_scale_2"]
        return NVFP4QTensor(shape, torch.bfloat16, codes).dequantize(
            torch.bfloat16, scale=scale, double_scale=double, block_sizes={-1: 16}
        )
    if codes.dtype == torch.uint8:
        shape = torch.Size((codes.shape[0], codes.shape[1] * 2))
        return MXFP4QTensor(shape, torch.bfloat16, codes).dequantize(torch.bfloat16, scale=scale, block_sizes={-1: 32})
    if scale.dtype == torch.uint8:
        return MXFP8QTensor(codes.shape, torch.bfloat16, codes).dequantize(torch.bfloat16, scale=scale)
    if scale.ndim == 4:
        return (
            FP8QTensor(codes.shape, torch.float32, codes)
            .dequantize(torch.float32, scale=scale.squeeze(1).squeeze(-1), block_sizes={-1: 128, -2: 128})
            .to(torch.bfloat16)
        )
    scale = scale if scale.ndim == 0 else scale[:, None]
    return from_quantized_weight(codes, scale, "fp8", torch.float32).to(torch.bfloat16)


def digest(values: torch.Tensor) -> str:
    """Hash of BF16 bits, zeros being positive: ModelOpt's NVFP4 knows no negative zero."""
    return hashlib.sha256((values + 0).contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def described(tensor: torch.Tensor) -> dict[str, object]:
    """Type, shape and bytes."""
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "hex": raw.hex()}


def exports(folder: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """The content of every golden file, by name."""
    source(folder / "source")
    weights = load_file(folder / "source" / "model.safetensors")
    yield "source", {f"{name}.weight": described(weights[f"{name}.weight"]) for name in (DOWN, QUERY)}
    for algo, config in [*CONFIGS.items(), ("MIXED_PRECISION", mixed())]:
        export(folder / "source", folder / algo, config)
        tensors = load_file(folder / algo / "model.safetensors")
        modules = (DOWN, QUERY) if algo == "MIXED_PRECISION" else (DOWN,)
        yield (
            algo,
            {
                "quantization_config": json.loads((folder / algo / "config.json").read_text())["quantization_config"],
                "hf_quant_config": json.loads((folder / algo / "hf_quant_config.json").read_text()),
                "tensors": {n: described(t) for n, t in tensors.items() if n.rpartition(".")[0] in modules},
                "sha256": {name: digest(dequantized(name, tensors)) for name in modules},
            },
        )


def main(out: Path) -> None:
    """Write the files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in exports(Path(folder)):
            (out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
