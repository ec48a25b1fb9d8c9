"""From config.json and Hugging Face names to what a GGUF file says: the inverse of gguf_config and gguf_llama.

What llama.cpp would compute differently is refused before anything is written. Facts read from llama.cpp's
src/models/{llama,qwen2,qwen3}.cpp, src/llama-graph.cpp and conversion/llama.py.
"""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halve.checkpoint.base import TensorInfo
from halve.checkpoint.gguf import Encoding, GgufTensor
from halve.checkpoint.gguf_config import CARRIED, RESERVED
from halve.checkpoint.gguf_llama import ARCHITECTURES, ROPE_FACTORS, Architecture, gguf_name, map_model
from halve.checkpoint.gguf_metadata import Metadata
from halve.checkpoint.gguf_tokenizer import SURROGATE, tokenizer_metadata
from halve.checkpoint.gguf_writer import ENCODING, Destination, GgufModel, Value
from halve.errors import CheckpointError, UnsupportedError

logger = logging.getLogger("halve")

MODEL_TYPES = {row.model_type: name for name, row in ARCHITECTURES.items()} | {"mistral": "llama"}
_FILE_TYPES = {  # llama.h, llama_ftype; "mostly" this type
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 7,
    "BF16": 32,
    "MXFP4": 38,
    "NVFP4": 39,
}
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION, of the block types
_DERIVED = re.compile(r".*\.rotary_emb\.inv_freq")  # follows from rope_theta
_ROPE = {  # kind of rope scaling -> what may be said of it
    "default": frozenset[str](),
    "linear": frozenset({"factor"}),
    "yarn": frozenset({"factor", "original_max_position_embeddings", "beta_fast", "beta_slow"}),
    "llama3": frozenset({"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"}),
}
_HEAD = "lm_head.weight"
_MLP = re.compile(r"blk\.\d+\.ffn_(gate|up|down)\.weight")
_ORIGINAL = "take config.json from the original model"
_ELSEWHERE = "use --layout compressed-tensors, or llama.cpp's own convert_hf_to_gguf.py"


def export(
    entries: Sequence[TensorInfo],
    encodings: Mapping[str, Encoding],
    config: Mapping[str, Any],
    auxiliary: Mapping[str, bytes],
) -> GgufModel:
    """What becomes of ``entries``, which have Hugging Face names, and the metadata of the whole model.

    ``encodings`` says which entries hold block types, as bytes [rows, row bytes]; the others are plain F32, F16 or
    BF16. ``auxiliary`` holds the tokenizer files; without any, the file has no tokenizer.

    Raises UnsupportedError for what llama.cpp has no place for, CheckpointError where config.json contradicts the
    tensors or itself.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise UnsupportedError(
            f"halve writes no GGUF of model type {model_type!r}",
            hint=f"known: {', '.join(MODEL_TYPES)}; others: {_ELSEWHERE}",
        )
    name = MODEL_TYPES[model_type]
    architecture = ARCHITECTURES[name]
    hyperparameters = _hyperparameters(config)
    head = int(hyperparameters["attention.key_length"])
    tensors = _destinations(entries, encodings, architecture, head, tied=config.get("tie_word_embeddings") is True)
    constants = _rope_factors(config, name, head)
    matrices = Counter(tensor.encoding.name for tensor in tensors.values() if len(tensor.shape) > 1)
    metadata: dict[str, Value] = {
        "general.architecture": name,
        "general.type": "model",
        **_general(config),
        "general.file_type": _FILE_TYPES[matrices.most_common(1)[0][0]] if matrices else 0,
        "general.quantization_version": _QUANTIZATION_VERSION,
        **{f"{name}.{key}": value for key, value in hyperparameters.items()},
        **{f"{name}.rope.{key}": value for key, value in _rope(config).items()},
    }
    _check(metadata, tensors)
    vocab = tensors["model.embed_tokens.weight"].shape[0]
    metadata |= {f"{name}.vocab_size": vocab, **tokenizer_metadata(auxiliary, config, vocab)}
    return GgufModel(metadata, tensors, constants)


def _general(config: Mapping[str, Any]) -> dict[str, Value]:
    """What the model is called, and what a GGUF source said of its licence and origin."""
    carried = config.get(CARRIED)
    said = carried if isinstance(carried, dict) else {}
    origin = config.get("_name_or_path")
    name = {"name": Path(origin).name} if isinstance(origin, str) and Path(origin).name else {}
    return {f"general.{key}": value for key, value in (name | said).items() if key not in RESERVED and _text(value)}


def _text(value: object) -> bool:
    """Whether ``value`` is text, or a list of texts, that UTF-8 can hold."""
    texts = value if isinstance(value, list) else [value]
    return all(isinstance(text, str) and not SURROGATE.search(text) for text in texts)


def _hyperparameters(config: Mapping[str, Any]) -> dict[str, int | float]:
    """Sizes, below the name of the architecture. Raises for activations other than SiLU."""
    if (activation := config.get("hidden_act", "silu")) not in ("silu", "swish"):
        raise UnsupportedError(
            f"config.json says hidden_act = {activation!r}, and llama.cpp runs these models with silu", hint=_ELSEWHERE
        )
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    head = _size(config, "head_dim", 128 if config["model_type"] == "qwen3" else hidden // heads)
    layers, context = _size(config, "num_hidden_layers"), _size(config, "max_position_embeddings")
    window = _window(config, layers)
    if window < context:
        logger.warning("llama.cpp has no sliding window for this model: its context is cut to the window, %d", window)
    return {
        "block_count": layers,
        "context_length": min(context, window),
        "embedding_length": hidden,
        "feed_forward_length": _size(config, "intermediate_size"),
        "attention.head_count": heads,
        "attention.head_count_kv": _size(config, "num_key_value_heads", heads),
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": _positive(config, "rms_norm_eps"),
        "rope.dimension_count": head,
    }


def _window(config: Mapping[str, Any], layers: int) -> int:
    """How far the layer that sees least looks back: within it, a sliding window and full attention are the same."""
    unlimited: int = 1 << 31
    qwen = config["model_type"].startswith("qwen")
    if config["model_type"] == "llama" or (qwen and not config.get("use_sliding_window")):
        return unlimited
    if config.get("sliding_window", 0) is None:
        return unlimited
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        slides = "sliding_attention" in kinds
    else:
        slides = not qwen or _size(config, "max_window_layers", 28) < layers  # transformers' default, as is 4096
    return _size(config, "sliding_window", 4096) if slides else unlimited


def _size(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = _positive(config, key, default)
    if value != int(value):
        raise CheckpointError(f"config.json says {key} = {value!r}, which is not a whole number", hint=_ORIGINAL)
    return int(value)


def _positive(config: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1 << 32:
        found = "has no" if value is None else f"says {value!r:.60} for"
        raise CheckpointError(f"config.json {found} {key}, and GGUF needs a positive number below 2^32", hint=_ORIGINAL)
    return float(value)


def _scaling(config: Mapping[str, Any]) -> dict[str, Any]:
    """``rope_parameters`` (transformers 5) or ``rope_theta`` with ``rope_scaling`` (4), with a ``rope_type``."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"config.json says rope_scaling = {found!r}, which is no object", hint=_ORIGINAL)
    kind = found.get("rope_type") or found.get("type") or "default"
    scaling = {"rope_theta": config.get("rope_theta"), "partial_rotary_factor": config.get("partial_rotary_factor")}
    scaling |= {key: value for key, value in found.items() if value is not None and key not in ("type", "rope_type")}
    left = sorted(scaling.keys() - {"rope_theta", "partial_rotary_factor", "finetuned"} - _ROPE.get(kind, frozenset()))
    if (scaling["partial_rotary_factor"] or 1) != 1:
        left.append("partial_rotary_factor")
    if kind not in _ROPE or left:
        raise UnsupportedError(
            f"llama.cpp would compute the rope scaling of config.json differently: {kind!r}"
            + (f" with {', '.join(left)}" if left else ""),
            hint=f"known: {', '.join(_ROPE)}; others: {_ELSEWHERE}",
        )
    return scaling | {"rope_type": kind}


def _rope(config: Mapping[str, Any]) -> dict[str, Value]:
    """The keys below ``rope``."""
    scaling = _scaling(config)
    keys: dict[str, Value] = {"freq_base": _positive(scaling, "rope_theta", 10000.0)}
    kind = scaling["rope_type"]
    if kind in ("linear", "yarn"):
        keys |= {"scaling.type": kind, "scaling.factor": _positive(scaling, "factor")}
    if kind == "yarn":
        context = _size(scaling, "original_max_position_embeddings", _size(config, "max_position_embeddings"))
        keys["scaling.original_context_length"] = context
        keys |= {f"scaling.yarn_{k}": _positive(scaling, k) for k in ("beta_fast", "beta_slow") if k in scaling}
    return keys


def _rope_factors(config: Mapping[str, Any], name: str, head: int) -> dict[str, NDArray[np.float32]]:
    """Llama 3's scaling: a table of what divides each frequency. Only ``llama`` reads one."""
    scaling = _scaling(config)
    if scaling["rope_type"] != "llama3":
        return {}
    if name != "llama":
        raise UnsupportedError(f"llama.cpp reads llama3 rope scaling of llama only, not of {name}", hint=_ELSEWHERE)
    factor, context = _positive(scaling, "factor"), _positive(scaling, "original_max_position_embeddings")
    low, high = _positive(scaling, "low_freq_factor"), _positive(scaling, "high_freq_factor")
    if not low < high:
        raise CheckpointError(
            f"config.json says low_freq_factor = {low:g}, which is not below {high:g}", hint=_ORIGINAL
        )
    wavelengths = 2 * pi * _positive(scaling, "rope_theta", 10000.0) ** (np.arange(0, head, 2) / head)
    smooth = np.clip((context / wavelengths - low) / (high - low), 0, 1)
    return {ROPE_FACTORS: (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)}


def _destinations(
    entries: Sequence[TensorInfo],
    encodings: Mapping[str, Encoding],
    architecture: Architecture,
    head: int,
    *,
    tied: bool,
) -> dict[str, Destination]:
    """Where each entry goes; what follows from others goes nowhere."""
    tensors = {}
    for entry in entries:
        if _DERIVED.fullmatch(entry.name) or (tied and entry.name == _HEAD):
            continue
        found = gguf_name(architecture, entry.name)
        if found is None:
            raise UnsupportedError(
                f"llama.cpp's {architecture.class_name} has no place for tensor {entry.name}", hint=_ELSEWHERE
            )
        name, interleaved = found
        encoding = encodings.get(entry.name) or ENCODING.get(entry.dtype)
        if encoding is None or (encoding.block_size == 1 and encoding.name not in ("F32", "F16", "BF16")):
            raise UnsupportedError(
                f"{entry.name} is {entry.dtype}, which llama.cpp reads no weights of", hint="cast it to BF16 first"
            )
        shape = entry.shape
        if entry.name in encodings:
            shape = (entry.rows, entry.columns // encoding.block_bytes * encoding.block_size)
        tensors[entry.name] = Destination(name, encoding, shape, head if interleaved else 0)
    return tensors


def _check(metadata: Mapping[str, Value], tensors: Mapping[str, Destination]) -> None:
    """Read what is to be written as a reader would. Raises what makes no sense, or no model of llama.cpp's."""
    table = {t.name: GgufTensor(t.name, t.encoding, t.shape, 0) for t in tensors.values()}
    try:
        model = map_model(Metadata(Path("config.json"), dict(metadata)), table)
    except CheckpointError as error:
        raise CheckpointError(
            f"config.json and the tensors do not make one model: {error}",
            hint="take config.json from the original model; `halve inspect` lists the tensors",
        ) from None
    except UnsupportedError as error:
        raise UnsupportedError(f"llama.cpp cannot run this model: {error}", hint=_ELSEWHERE) from None
    if model.name == "qwen3" and model.biased:
        raise UnsupportedError("llama.cpp reads no biases of Qwen3", hint=_ELSEWHERE)
    unscaled = "adds the bias of an MLP before it" if model.mlp_biased else ""
    unscaled = unscaled or ("forgets it in Qwen2's MLP" if model.name == "qwen2" else "")
    for name, tensor in table.items():
        if unscaled and tensor.encoding.name == "NVFP4" and _MLP.fullmatch(name):
            raise UnsupportedError(
                f"{name} in NVFP4 needs a tensor scale, and llama.cpp {unscaled}",
                hint="use --scheme mxfp4a16 or int4_g32, or leave the MLP out: --ignore 're:.*mlp.*'",
            )
