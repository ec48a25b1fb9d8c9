"""Write a Llama or Qwen3-MoE checkpoint of made-up weights: a real model's shape, values that look like weights.

    python benchmarks/synthetic.py OUT --shape 500m|1b|7b|tiny|moe|packed|1t [--shard-bytes N] [--seed N] [--holes]

A pool of normal BF16 values is drawn once; every tensor is made of pieces of it that start anywhere. So a file is
written about as fast as the disk takes it, in less than 100 MB of memory, and one seed always gives the same bytes.
With ``--holes`` weights are zeros that take no disk: what plans and prices a job needs no more of 2 TB than that.
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt

POOL = 1 << 22  # values
PIECE = 1 << 20  # values: the longest stretch taken from one place of the pool
DEVIATION = 0.02
OUTLIERS = 1e-4  # share of the values that are OUTLIER_FACTOR times as large
OUTLIER_FACTOR = 10.0
ITEM = 2  # bytes of a BF16 value
SHARD_BYTES = 5_000_000_000
TRAINED_LENGTH = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The geometry of a Llama decoder with untied embeddings; of Qwen3-MoE where there are ``experts``.

    ``intermediate`` is then an expert's, and a token takes ``chosen`` of them; ``packed``: a layer's are one tensor.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    experts: int = 0
    chosen: int = 0
    packed: bool = False

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor, in the order of the model."""
        kv = self.hidden // self.heads * self.kv_heads
        yield "model.embed_tokens.weight", (self.vocab, self.hidden)
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            yield prefix + "input_layernorm.weight", (self.hidden,)
            yield prefix + "self_attn.q_proj.weight", (self.hidden, self.hidden)
            yield prefix + "self_attn.k_proj.weight", (kv, self.hidden)
            yield prefix + "self_attn.v_proj.weight", (kv, self.hidden)
            yield prefix + "self_attn.o_proj.weight", (self.hidden, self.hidden)
            yield prefix + "post_attention_layernorm.weight", (self.hidden,)
            if self.experts:
                yield prefix + "self_attn.q_norm.weight", (self.hidden // self.heads,)
                yield prefix + "self_attn.k_norm.weight", (self.hidden // self.heads,)
                yield prefix + "mlp.gate.weight", (self.experts, self.hidden)
            if self.packed:
                yield prefix + "mlp.experts.gate_up_proj", (self.experts, 2 * self.intermediate, self.hidden)
                yield prefix + "mlp.experts.down_proj", (self.experts, self.hidden, self.intermediate)
                continue
            for mlp in [f"mlp.experts.{expert}." for expert in range(self.experts)] or ["mlp."]:
                yield prefix + mlp + "gate_proj.weight", (self.intermediate, self.hidden)
                yield prefix + mlp + "up_proj.weight", (self.intermediate, self.hidden)
                yield prefix + mlp + "down_proj.weight", (self.hidden, self.intermediate)
        yield "model.norm.weight", (self.hidden,)
        yield "lm_head.weight", (self.vocab, self.hidden)

    @property
    def parameters(self) -> int:
        """How many weights the model has."""
        return sum(math.prod(shape) for _, shape in self.tensors())

    def config(self) -> dict[str, object]:
        """``config.json`` as transformers reads it."""
        sparse = {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "moe_intermediate_size": self.intermediate,
            "norm_topk_prob": True,
            "num_experts": self.experts,
            "num_experts_per_tok": self.chosen,
        }
        dense = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
        return {
            "attention_bias": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "head_dim": self.hidden // self.heads,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": DEVIATION,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": TRAINED_LENGTH,
            "mlp_bias": False,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "vocab_size": self.vocab,
            **(sparse if self.experts else dense),
        }


SHAPES = {
    "tiny": Shape(hidden=64, intermediate=128, layers=2, heads=4, kv_heads=2, vocab=256),
    "500m": Shape(hidden=2048, intermediate=5632, layers=8, heads=16, kv_heads=8, vocab=32000),
    "1b": Shape(hidden=2048, intermediate=5632, layers=22, heads=32, kv_heads=4, vocab=32000),  # TinyLlama-1.1B
    "7b": Shape(hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=32, vocab=32000),  # Llama-2-7B
    # Layers of Qwen3-30B-A3B with half as many experts; a token reads a fifth of the weights.
    "moe": Shape(hidden=2048, intermediate=768, layers=4, heads=16, kv_heads=4, vocab=32000, experts=64, chosen=8),
    "packed": Shape(  # 9 GB, one tensor 1.07
        hidden=4096, intermediate=4096, layers=5, heads=32, kv_heads=8, vocab=32000, experts=16, chosen=2, packed=True
    ),
    "1t": Shape(  # Kimi-K2's experts, a trillion weights, 2 TB
        hidden=7168, intermediate=2048, layers=61, heads=64, kv_heads=64, vocab=163840, experts=384, chosen=8
    ),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the checkpoint; ``index`` counts over the whole model, so that sharding changes no value."""

    index: int
    name: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * ITEM


def write(out: Path, shape: str | Shape, *, seed: int = 0, shard_bytes: int = SHARD_BYTES, holes: bool = False) -> None:
    """Write config.json and safetensors files (with an index if they are several) into the new folder ``out``.

    ``shard_bytes`` bounds the tensor data of one file; a tensor larger than that gets a file of its own. ``holes``
    leaves the data out, which reads as zeros. Raises FileExistsError where ``out`` exists, KeyError for a shape that
    has no name in SHAPES.
    """
    geometry = SHAPES[shape] if isinstance(shape, str) else shape
    tensors = [Tensor(index, name, dimensions) for index, (name, dimensions) in enumerate(geometry.tensors())]
    shards = _shards(tensors, shard_bytes)
    out.mkdir(parents=True)
    pool = _pool(seed)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(out / name, shard, pool, seed, holes=holes)
        weight_map |= dict.fromkeys((tensor.name for tensor in shard), name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": geometry.parameters * ITEM}, "weight_map": weight_map}
        _write_json(out / "model.safetensors.index.json", index)
    _write_json(out / "config.json", geometry.config())


def _shards(tensors: list[Tensor], shard_bytes: int) -> list[list[Tensor]]:
    """Split, in order, into runs of at most ``shard_bytes``."""
    shards: list[list[Tensor]] = []
    room = 0
    for tensor in tensors:
        if not shards or tensor.nbytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(tensor)
        room -= tensor.nbytes
    return shards


def _pool(seed: int) -> npt.NDArray[np.uint16]:
    """Draw the bits of POOL normal BF16 values, a few of them outliers."""
    random = np.random.default_rng(seed)
    values = random.standard_normal(POOL, dtype=np.float32)
    values *= DEVIATION
    values[random.integers(POOL, size=round(POOL * OUTLIERS))] *= OUTLIER_FACTOR
    return values.astype(ml_dtypes.bfloat16).view(np.uint16)


def _write_shard(path: Path, tensors: list[Tensor], pool: npt.NDArray[np.uint16], seed: int, *, holes: bool) -> None:
    """Stream one safetensors file: the length of the header in 8 bytes, the header, the data of each tensor."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.nbytes
        header[tensor.name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        if holes:
            file.truncate(file.tell() + end)
            return
        for tensor in tensors:
            for piece in _pieces(tensor, pool, seed):
                file.write(piece.data)


def _pieces(tensor: Tensor, pool: npt.NDArray[np.uint16], seed: int) -> Iterator[npt.NDArray[np.uint16]]:
    """The values of a tensor, a stretch at a time; a norm is all ones."""
    left = math.prod(tensor.shape)
    if len(tensor.shape) == 1:
        yield np.ones(left, ml_dtypes.bfloat16).view(np.uint16)
        return
    random = np.random.default_rng([seed, tensor.index])
    while left:
        count = min(left, PIECE)
        start = int(random.integers(POOL - count))
        yield pool[start : start + count]
        left -= count


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--shard-bytes", type=int, default=SHARD_BYTES, metavar="N", help="most bytes of a file")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--holes", action="store_true", help="zeros that take no disk")
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"{args.out} exists")
    write(args.out, args.shape, seed=args.seed, shard_bytes=args.shard_bytes, holes=args.holes)


if __name__ == "__main__":
    main()
