"""Tiny GGUF models for tests, written by the `gguf` package, with what they hold known beforehand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, quants
from numpy.typing import NDArray

BLOCK_SCALES = {  # where the float16 fields of a block stand, as slices of its bytes
    "Q4_0": slice(0, 2),
    "Q4_1": slice(0, 4),
    "Q5_0": slice(0, 2),
    "Q8_0": slice(0, 2),
    "Q4_K": slice(0, 4),
    "Q5_K": slice(0, 4),
    "Q6_K": slice(208, 210),
}
BYTE_SCALES = {"MXFP4": (slice(0, 1), 118, 124), "NVFP4": (slice(0, 4), 1, 127)}  # and the range of their codes


def random_blocks(rng: np.random.Generator, encoding: str, rows: int, columns: int) -> NDArray[np.uint8]:
    """Stored bytes of a matrix: any codes, scales of ordinary size."""
    size, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[encoding]]
    raw = rng.integers(0, 256, (rows, columns // size, nbytes), dtype=np.uint8)
    if encoding in BYTE_SCALES:
        where, low, high = BYTE_SCALES[encoding]
        raw[:, :, where] = rng.integers(low, high, raw[:, :, where].shape)
        return raw.reshape(rows, -1)
    where = BLOCK_SCALES[encoding]
    scales = rng.uniform(-0.1, 0.1, (rows, columns // size, (where.stop - where.start) // 2)).astype(np.float16)
    raw[:, :, where] = scales.view(np.uint8)
    return raw.reshape(rows, -1)


def stored(rng: np.random.Generator, encoding: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Random stored data of any type that can be read; vectors are float32, as converters write them."""
    if len(shape) > 1 and encoding in (*BLOCK_SCALES, *BYTE_SCALES):
        return random_blocks(rng, encoding, *shape)
    values = rng.standard_normal(shape, dtype=np.float32)
    if len(shape) == 1 or encoding == "F32":
        return values
    if encoding == "F16":
        return values.astype(np.float16)
    return quants.quantize(values, GGMLQuantizationType[encoding])


def values(data: NDArray[Any], encoding: str) -> NDArray[np.float32]:
    """What stored data means, according to the `gguf` package."""
    if data.dtype == np.float32:
        return data
    return quants.dequantize(data.view(np.uint8), GGMLQuantizationType[encoding])


@dataclass(kw_only=True)
class TinyModel:
    """A model to write; ``data`` holds what was written: GGUF name -> (stored data, type)."""

    architecture: str = "llama"
    encoding: str = "F32"
    layers: int = 2
    hidden: int = 256
    intermediate: int = 512
    heads: int = 4
    kv_heads: int = 2
    head: int = 64
    vocab: int = 300
    tied: bool = True
    biases: tuple[str, ...] = ()
    head_norms: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, tuple[NDArray[Any], str]] = field(default_factory=dict)
    seed: int = 0
    data: dict[str, tuple[NDArray[Any], str]] = field(default_factory=dict)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """GGUF name -> shape, in the order of the file."""
        queries, keys = self.heads * self.head, self.kv_heads * self.head
        linears = {
            "attn_q": (queries, self.hidden),
            "attn_k": (keys, self.hidden),
            "attn_v": (keys, self.hidden),
            "attn_output": (self.hidden, queries),
            "ffn_gate": (self.intermediate, self.hidden),
            "ffn_up": (self.intermediate, self.hidden),
            "ffn_down": (self.hidden, self.intermediate),
        }
        shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (self.vocab, self.hidden)}
        for layer in range(self.layers):
            block: dict[str, tuple[int, ...]] = {"attn_norm.weight": (self.hidden,), "ffn_norm.weight": (self.hidden,)}
            block |= {f"{name}.weight": shape for name, shape in linears.items()}
            block |= {f"{name}.bias": linears[name][:1] for name in self.biases}
            if self.head_norms:
                block |= {"attn_q_norm.weight": (self.head,), "attn_k_norm.weight": (self.head,)}
            shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
        shapes["output_norm.weight"] = (self.hidden,)
        return shapes if self.tied else shapes | {"output.weight": (self.vocab, self.hidden)}

    def required(self) -> dict[str, Any]:
        """The metadata without which a file is no model."""
        return {
            "block_count": self.layers,
            "context_length": 128,
            "embedding_length": self.hidden,
            "feed_forward_length": self.intermediate,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "attention.key_length": self.head,
            "attention.value_length": self.head,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "rope.freq_base": 10000.0,
            "rope.dimension_count": self.head,
        }

    def write(self, path: Path) -> Path:
        """Write the file; a metadata value of None leaves the key out."""
        rng = np.random.default_rng(self.seed)
        writer = GGUFWriter(path, self.architecture)
        pairs = {f"{self.architecture}.{key}": value for key, value in self.required().items()} | dict(self.metadata)
        for key, value in pairs.items():
            if key == "general.alignment":
                writer.add_custom_alignment(value)
            elif value is not None:
                add_value(writer, key, value)
        self.data = {}
        for name, shape in self.shapes().items():
            encoding = self.encoding if len(shape) > 1 else "F32"
            self.data[name] = (stored(rng, encoding, shape), encoding)
        self.data |= self.extra
        for name, (data, encoding) in self.data.items():
            writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType[encoding])
        finish(writer)
        return path

    def expected(self, name: str) -> NDArray[np.float32]:
        """Values of the tensor called ``name`` in GGUF."""
        return values(*self.data[name])


def add_value(writer: GGUFWriter, key: str, value: Any) -> None:
    """Add one pair with the type that converters give it."""
    add: Callable[[str, Any], None]
    match value:
        case bool():
            add = writer.add_bool
        case int():
            add = writer.add_uint32
        case float():
            add = writer.add_float32
        case str():
            add = writer.add_string
        case _:
            add = writer.add_array
    add(key, value)


def finish(writer: GGUFWriter) -> None:
    """Write everything and close the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def interleave(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """Reorder rows as convert_hf_to_gguf does for q and k of `llama`: the two rotary halves of a head alternate."""
    rows = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return rows.swapaxes(1, 2).reshape(weight.shape)
