"""Statistics of activations for `halve quantize --stats`, of any transformers model, by hooks on its linear layers."""

import argparse
import hashlib
import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
parser.add_argument("model")
parser.add_argument("out")
parser.add_argument("--text", action="append", required=True, help="a UTF-8 file; several kinds calibrate better")
parser.add_argument("--windows", type=int, default=8, help="of 512 tokens, of each text")
parser.add_argument("--hessians", action="store_true", help="what gptq needs: [in, in] a layer")
parser.add_argument("--fisher", action="store_true", help="run backward, too: how much each output matters")
args = parser.parse_args()
tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
kind = getattr(transformers, transformers.AutoConfig.from_pretrained(args.model).architectures[0])
model = kind.from_pretrained(args.model, dtype=torch.float32).eval().requires_grad_(False)
model.get_input_embeddings().weight.requires_grad_(args.fisher)
torch.manual_seed(0)
sums, largest, counts, texts = {}, {}, {}, []


def add(name: str, value: torch.Tensor) -> None:
    sums[name] = sums.get(name, 0) + value


def gather(name: str, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
    """What a layer is fed and, in the backward pass, how much its outputs matter."""
    x = inputs.detach().reshape(-1, inputs.shape[-1])
    counts[name] = counts.get(name, 0) + len(x)
    largest[f"{name}.amax"] = torch.maximum(x.abs().amax(0), largest.get(f"{name}.amax", torch.zeros(1)))
    add(f"{name}.mean_square", x.square().sum(0))
    if args.hessians:
        add(f"{name}.hessian", x.T @ x)
    if args.fisher:
        outputs.register_hook(lambda g: add(f"{name}.gradient_square", g.reshape(-1, g.shape[-1]).square().sum(0)))


for name, layer in model.named_modules():
    if isinstance(layer, torch.nn.Linear) and layer is not model.get_output_embeddings():
        layer.register_forward_hook(lambda _, inputs, outputs, name=name: gather(name, inputs[0], outputs))
for file in map(Path, args.text):
    content = file.read_text(encoding="utf-8")
    windows = tokenizer(content, return_tensors="pt").input_ids[0].split(512)[: args.windows]
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    texts.append({"name": file.name, "sha256": sha256, "tokens": sum(map(len, windows))})
    for tokens in windows:
        with torch.set_grad_enabled(args.fisher):
            found = model(tokens[None])
        if args.fisher:  # of tokens that the model itself draws: then the gradients tell how KL divergence grows
            drawn = found.logits[0].detach().softmax(-1).multinomial(1)[:, 0]
            torch.nn.functional.cross_entropy(found.logits[0], drawn, reduction="sum").backward()
means = {key: value / counts[key.rpartition(".")[0]] for key, value in sums.items()}
facts = {"model": "", "tokens": sum(t["tokens"] for t in texts), "window": 512, "texts": texts}
save_file({k: v.contiguous() for k, v in (means | largest).items()}, args.out, {"halve.statistics": json.dumps(facts)})
