"""Llama-like models in GGUF: Hugging Face names and the order of q/k rows.

A converter renames every tensor, and for `llama` it also interleaves the two rotary halves of each q/k head. Both ways
are here. What the model class cannot hold exactly is refused rather than dropped.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from halve.checkpoint.gguf import GgufTensor
from halve.checkpoint.gguf_metadata import DAMAGED, Metadata
from halve.errors import CheckpointError, UnsupportedError

_Q, _K, _V, _O = "attn_q", "attn_k", "attn_v", "attn_output"
_QKV = frozenset({_Q, _K, _V})
_QKVO = _QKV | {_O}
_MLP = frozenset({"ffn_gate", "ffn_up", "ffn_down"})
_NONE: frozenset[str] = frozenset()

ROPE_FACTORS = "rope_freqs.weight"
ROTARY_TABLE = re.compile(r"blk\.\d+\.attn_rot_embd\.weight")  # cos/sin of old converters, derived from rope_theta


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How one value of ``general.architecture`` maps onto a transformers model."""

    model_type: str
    class_name: str
    interleaved: bool = False  # q/k rows hold the rotary halves interleaved (convert_hf_to_gguf's `permute`)
    head_norms: bool = False
    biases: tuple[frozenset[str], ...] = (_NONE,)  # the sets of biased linears that the model class can hold


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(
        model_type="llama",
        class_name="LlamaForCausalLM",
        interleaved=True,
        biases=(_NONE, _QKVO, _MLP, _QKVO | _MLP),
    ),
    "qwen2": Architecture(model_type="qwen2", class_name="Qwen2ForCausalLM", biases=(_QKV,)),
    "qwen3": Architecture(model_type="qwen3", class_name="Qwen3ForCausalLM", head_norms=True, biases=(_NONE, _QKVO)),
}

# GGUF stem -> Hugging Face stem and the sizes of its weight, as fields of Geometry
_MODEL = {
    "token_embd": ("model.embed_tokens", ("vocab", "hidden")),
    "output_norm": ("model.norm", ("hidden",)),
    "output": ("lm_head", ("vocab", "hidden")),
}
_BLOCK = {
    "attn_norm": ("input_layernorm", ("hidden",)),
    _Q: ("self_attn.q_proj", ("queries", "hidden")),
    _K: ("self_attn.k_proj", ("keys", "hidden")),
    _V: ("self_attn.v_proj", ("keys", "hidden")),
    _O: ("self_attn.o_proj", ("hidden", "queries")),
    "ffn_norm": ("post_attention_layernorm", ("hidden",)),
    "ffn_gate": ("mlp.gate_proj", ("intermediate", "hidden")),
    "ffn_up": ("mlp.up_proj", ("intermediate", "hidden")),
    "ffn_down": ("mlp.down_proj", ("hidden", "intermediate")),
}
_HEAD_NORMS = {
    "attn_q_norm": ("self_attn.q_norm", ("head",)),
    "attn_k_norm": ("self_attn.k_norm", ("head",)),
}
_NAME = re.compile(r"blk\.(0|[1-9]\d{0,8})\.(\w+)\.(weight|bias)")
_STEM = re.compile(r"blk\.(0|[1-9]\d{0,8})\.(\w+)")
_HF_NAME = re.compile(r"model\.layers\.(0|[1-9]\d{0,8})\.(.+)")
_SCALE = re.compile(r"(.+)\.(scale|input_scale)")  # factors of a matrix and of its inputs, which NVFP4 needs
# Multipliers of other families that some converters file under `llama`; these model classes have no place for them.
_MULTIPLIERS = (
    "logit_scale",
    "embedding_scale",
    "residual_scale",
    "attention.scale",
    "attention.clamp_kqv",
    "attn_logit_softcapping",
    "final_logit_softcapping",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Sizes of the model. ``queries`` and ``keys`` are the rows of q_proj and of k_proj and v_proj."""

    layers: int
    vocab: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head: int

    @property
    def queries(self) -> int:
        """Rows of q_proj."""
        return self.heads * self.head

    @property
    def keys(self) -> int:
        """Rows of k_proj and v_proj."""
        return self.kv_heads * self.head


@dataclass(frozen=True, slots=True)
class Source:
    """Where a tensor comes from. ``head`` > 0: its rows are interleaved within heads of that many rows.

    ``scale`` and ``input_scale``: one number each, a factor of the matrix and the scale of its inputs.
    """

    tensor: GgufTensor
    head: int = 0
    scale: GgufTensor | None = None
    input_scale: GgufTensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A GGUF model in Hugging Face terms: its tensors by new name, in file order."""

    name: str  # general.architecture
    geometry: Geometry
    sources: Mapping[str, Source]
    biased: frozenset[str]

    @property
    def architecture(self) -> Architecture:
        """The transformers side of ``name``."""
        return ARCHITECTURES[self.name]

    @property
    def tied(self) -> bool:
        """Whether the output layer is the embedding."""
        return "lm_head.weight" not in self.sources

    @property
    def attention_biased(self) -> bool:
        """Whether all four attention linears carry a bias (transformers' ``attention_bias``)."""
        return self.biased >= _QKVO

    @property
    def mlp_biased(self) -> bool:
        """Whether the MLP linears carry a bias (transformers' ``mlp_bias``)."""
        return self.biased >= _MLP


def source_rows(start: int, stop: int, head: int) -> NDArray[np.intp]:
    """Rows of a GGUF q/k tensor that hold rows ``start..stop`` of the Hugging Face tensor.

    Within a head of ``head`` rows, GGUF row ``2j + h`` is row ``h * head / 2 + j``: llama.cpp rotates neighbours,
    transformers rotates halves.
    """
    rows = np.arange(start, stop, dtype=np.intp)
    half, offset = np.divmod(rows % head, head // 2)
    source: NDArray[np.intp] = rows - rows % head + 2 * offset + half
    return source


def gguf_name(architecture: Architecture, name: str) -> tuple[str, bool] | None:
    """The name that the Hugging Face tensor ``name`` has in GGUF, and whether its rows are interleaved within heads.

    None where the architecture has no place for it.
    """
    module, _, kind = name.rpartition(".")
    match = _HF_NAME.fullmatch(module)
    table = _BLOCK | (_HEAD_NORMS if architecture.head_norms else {}) if match else _MODEL
    wanted = match[2] if match else module
    stem = next((stem for stem, (new, _) in table.items() if new == wanted), None)
    if stem is None or kind not in ("weight", "bias", "scale", "input_scale"):
        return None
    rows = kind in ("weight", "bias") and architecture.interleaved and stem in (_Q, _K)
    return f"blk.{match[1]}.{stem}.{kind}" if match else f"{stem}.{kind}", rows


def hf_module(stem: str) -> str | None:
    """The module whose weight GGUF calls ``stem``.weight; None where no decoder has such a linear layer."""
    match = _STEM.fullmatch(stem)
    table, name = (_BLOCK, match[2]) if match else (_MODEL, stem)
    if name not in table or len(table[name][1]) != 2:
        return None
    return f"model.layers.{match[1]}.{table[name][0]}" if match else table[name][0]


def map_model(metadata: Metadata, tensors: Mapping[str, GgufTensor]) -> Model:
    """Name the tensors as transformers does.

    Raises UnsupportedError for what the model class cannot hold, CheckpointError where tensors are missing or do not
    fit the metadata.
    """
    name = metadata.text("general.architecture")
    if name not in ARCHITECTURES:
        raise UnsupportedError(
            f"{metadata.path}: architecture {name!r} is not supported",
            hint=f"known: {', '.join(ARCHITECTURES)}; others: quantize the original safetensors checkpoint",
        )
    _refuse_uncarried(metadata, name)
    geometry = _geometry(metadata, name, tensors)
    sources, biased = _sources(metadata, ARCHITECTURES[name], geometry, tensors)
    return Model(name=name, geometry=geometry, sources=sources, biased=biased)


def _refuse_uncarried(metadata: Metadata, name: str) -> None:
    if metadata.integer(f"{name}.expert_count", 0):
        raise UnsupportedError(
            f"{metadata.path}: a mixture of experts in GGUF is not supported",
            hint="quantize the original safetensors checkpoint",
        )
    if metadata.integer("split.count", 1) > 1:
        raise UnsupportedError(
            f"{metadata.path}: one of {metadata.integer('split.count')} parts of a split model",
            hint="join the parts first: llama-gguf-split --merge FIRST_PART OUT.gguf",
        )
    for key in _MULTIPLIERS:
        if metadata.number(f"{name}.{key}", 0) not in (0, 1):
            raise UnsupportedError(
                f"{metadata.path}: {name}.{key} = {metadata[f'{name}.{key}']} has no place in"
                f" {ARCHITECTURES[name].class_name}",
                hint="quantize the original safetensors checkpoint",
            )


def _scales(metadata: Metadata, tensors: Mapping[str, GgufTensor]) -> dict[str, GgufTensor]:
    """Return the factors of matrices: all tensors called ``*.scale`` and ``*.input_scale``."""
    scales = {}
    for name, tensor in tensors.items():
        if not (match := _SCALE.fullmatch(name)):
            continue
        weight = tensors.get(f"{match[1]}.weight")
        if weight is None or len(weight.shape) != 2 or match[1] == "token_embd":
            raise UnsupportedError(
                f"{metadata.path}: tensor {name!r} scales no matrix of a linear layer",
                hint="quantize the original safetensors checkpoint",
            )
        if tensor.encoding.name != "F32" or tensor.shape != (1,):
            raise CheckpointError(
                f"{metadata.path}: tensor {name!r} is {tensor.encoding.name} of shape {tensor.shape}, not one F32",
                hint=DAMAGED,
            )
        scales[name] = tensor
    return scales


def _geometry(metadata: Metadata, name: str, tensors: Mapping[str, GgufTensor]) -> Geometry:
    if "token_embd.weight" not in tensors:
        raise CheckpointError(f"{metadata.path}: tensor 'token_embd.weight' is missing", hint=DAMAGED)
    hidden = _positive(metadata, f"{name}.embedding_length")
    heads = _uniform(metadata, f"{name}.attention.head_count")
    kv_heads = _uniform(metadata, f"{name}.attention.head_count_kv", heads)
    head = metadata.integer(f"{name}.attention.key_length", hidden // heads)
    geometry = Geometry(
        layers=_positive(metadata, f"{name}.block_count"),
        vocab=tensors["token_embd.weight"].shape[0],
        hidden=hidden,
        intermediate=_uniform(metadata, f"{name}.feed_forward_length"),
        heads=heads,
        kv_heads=kv_heads,
        head=head,
    )
    if heads % kv_heads or head < 2 or head % 2:
        raise CheckpointError(
            f"{metadata.path}: {heads} query heads, {kv_heads} key heads of {head} rows are no attention geometry",
            hint=DAMAGED,
        )
    for key in ("attention.value_length", "rope.dimension_count"):
        if metadata.integer(f"{name}.{key}", head) != head:
            raise UnsupportedError(
                f"{metadata.path}: {name}.{key} = {metadata[f'{name}.{key}']} differs from the head size {head}",
                hint="quantize the original safetensors checkpoint",
            )
    return geometry


def _uniform(metadata: Metadata, key: str, default: int | None = None) -> int:
    """Return a positive number that some converters write once a layer."""
    if not isinstance(metadata.get(key), np.ndarray):
        return _positive(metadata, key, default)
    values = np.unique(metadata.integers(key))
    if values.size != 1 or values[0] < 1:
        raise UnsupportedError(
            f"{metadata.path}: {key} is not one positive number in all layers: {values.tolist()}",
            hint="quantize the original safetensors checkpoint",
        )
    return int(values[0])


def _positive(metadata: Metadata, key: str, default: int | None = None) -> int:
    value = metadata.integer(key, default)
    if value < 1:
        raise CheckpointError(f"{metadata.path}: {key} = {value} is not positive", hint=DAMAGED)
    return value


def _sources(
    metadata: Metadata, architecture: Architecture, geometry: Geometry, tensors: Mapping[str, GgufTensor]
) -> tuple[dict[str, Source], frozenset[str]]:
    """Return the tensors under their new names, in file order, and which linears carry a bias."""
    block = _BLOCK | (_HEAD_NORMS if architecture.head_norms else {})
    names: dict[str, tuple[str, tuple[str, ...]]] = {
        f"{stem}.weight": (f"{new}.weight", sizes) for stem, (new, sizes) in _MODEL.items()
    }
    sources: dict[str, Source] = {}
    biases: dict[int, set[str]] = {}
    scales = _scales(metadata, tensors)
    for name, tensor in tensors.items():
        if name == ROPE_FACTORS or ROTARY_TABLE.fullmatch(name) or name in scales:
            continue
        if (match := _NAME.fullmatch(name)) and match[2] in block and int(match[1]) < geometry.layers:
            new, sizes = block[match[2]]
            new = f"model.layers.{match[1]}.{new}.{match[3]}"
            if match[3] == "bias":
                biases.setdefault(int(match[1]), set()).add(match[2])
                sizes = sizes[:1]
            rotated = architecture.interleaved and match[2] in (_Q, _K)
        elif name in names:
            (new, sizes), rotated = names[name], False
        else:
            raise UnsupportedError(
                f"{metadata.path}: {architecture.class_name} has no place for tensor {name!r}",
                hint="quantize the original safetensors checkpoint",
            )
        shape = tuple(getattr(geometry, size) for size in sizes)
        if tensor.shape != shape:
            raise CheckpointError(
                f"{metadata.path}: tensor {name!r} has shape {tensor.shape}, the metadata says {shape}", hint=DAMAGED
            )
        stem = name.removesuffix(".weight")
        factors = (scales.get(f"{stem}.scale"), scales.get(f"{stem}.input_scale"))
        sources[new] = Source(tensor, geometry.head if rotated else 0, *factors)
    layers = range(geometry.layers)
    for name in chain(
        (name for name in names if name != "output.weight"),
        (f"blk.{layer}.{stem}.weight" for layer in layers for stem in block),
    ):
        if name not in tensors:  # ends at the first, so that an absurd block_count costs nothing
            raise CheckpointError(f"{metadata.path}: tensor {name!r} is missing", hint=DAMAGED)
    kinds = {frozenset(biases.get(layer, ())) for layer in layers}
    if len(kinds) != 1 or not kinds <= set(architecture.biases):
        found = sorted({stem for kind in kinds for stem in kind}) or ["none"]
        raise UnsupportedError(
            f"{metadata.path}: {architecture.class_name} cannot hold this set of biases: {', '.join(found)}",
            hint="quantize the original safetensors checkpoint",
        )
    return sources, kinds.pop()
