"""Logits that transformers computes from a checkpoint; runs in the peer `transformers`.

    transformers_generate.py PATH TOKENS.safetensors OUT.safetensors

TOKENS holds `tokens` [windows, window]. OUT gets logits [windows * window, vocabulary] after each token, all tokens
before it in its window given: `bf16`, loaded and run as a user does, inputs quantized where the scheme says so; and
`fp32`, of the weights alone: decompressed to BF16 by then, turned to float32, and inputs left as they come. It also
gets, in float32 and with quantized inputs, `NAME.inputs` and `NAME.outputs` of every linear layer NAME over the first
LAYER_TOKENS.
"""

import argparse
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from compressed_tensors.quantization import disable_quantization, enable_quantization
from safetensors.torch import load_file, save_file

LAYER_TOKENS = 8


def main() -> None:
    """Load, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("path", type=Path, metavar="PATH", help="folder of the checkpoint")
    parser.add_argument("tokens", type=Path, metavar="TOKENS", help="safetensors file to read")
    parser.add_argument("out", type=Path, metavar="OUT", help="safetensors file to write")
    args = parser.parse_args()
    tokens = load_file(args.tokens)["tokens"]
    model = transformers.AutoModelForCausalLM.from_pretrained(args.path, dtype=torch.bfloat16).eval()
    seen = {}

    def keep(name: str):  # noqa: ANN202 - what torch calls a hook
        def hook(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], outputs: torch.Tensor) -> None:
            seen[f"{name}.inputs"], seen[f"{name}.outputs"] = inputs[0][0].clone(), outputs[0].clone()

        return hook

    with torch.inference_mode():
        seen["bf16"] = torch.cat([model(window[None]).logits[0].float() for window in tokens])
        torch.nn.Module.float(model)  # the model's own float() refuses, taking it to be quantized still
        model.apply(disable_quantization)
        seen["fp32"] = torch.cat([model(window[None]).logits[0] for window in tokens])
        model.apply(enable_quantization)
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(keep(name))
        model(tokens[:1, :LAYER_TOKENS])
    save_file({name: tensor.contiguous() for name, tensor in seen.items()}, args.out)


if __name__ == "__main__":
    main()
