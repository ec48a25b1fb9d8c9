"""The config.json that the metadata of a GGUF file implies."""

import logging
from collections.abc import Iterator
from math import pi
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halve.checkpoint.gguf_llama import ROPE_FACTORS, Model
from halve.checkpoint.gguf_metadata import DAMAGED, Metadata
from halve.errors import CheckpointError, UnsupportedError

logger = logging.getLogger("halve")

_TORCH_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
CARRIED = "gguf"  # key of config.json for what a GGUF file says of the model's name, licence and origin
RESERVED = ("architecture", "type", "alignment", "file_type", "quantization_version")  # what is said of the file itself
# A converter writes llama3 rope scaling as a table of frequency divisors and drops the parameters. All models in
# circulation share the two band edges; most share the context, which converters even assume. A divisor between the
# bands tells it, where there is one.
_LOW_FREQ_FACTOR, _HIGH_FREQ_FACTOR = 1.0, 4.0
_LLAMA3_CONTEXTS = (8192, 2048, 4096, 16384, 32768, 65536, 131072)


def build_config(
    metadata: Metadata, model: Model, dtype: str, rope_factors: NDArray[np.float32] | None
) -> dict[str, Any]:
    """Return config.json as transformers 4 and 5 read it.

    ``dtype``: safetensors name of the type the tensors are presented in. ``rope_factors``: the content of
    rope_freqs.weight, where the file has it. Raises CheckpointError where a key is missing or makes no sense,
    UnsupportedError where the rope scaling is one that cannot be carried over.
    """
    name, geometry = model.name, model.geometry
    theta = metadata.number(f"{name}.rope.freq_base", 10000.0)
    if theta <= 0:
        raise CheckpointError(f"{metadata.path}: {name}.rope.freq_base = {theta} is not positive", hint=DAMAGED)
    scaling = _rope_scaling(metadata, model, theta, rope_factors)
    config: dict[str, Any] = {
        "architectures": [model.architecture.class_name],
        "model_type": model.architecture.model_type,
        "hidden_act": "silu",
        "hidden_size": geometry.hidden,
        "intermediate_size": geometry.intermediate,
        "num_hidden_layers": geometry.layers,
        "num_attention_heads": geometry.heads,
        "num_key_value_heads": geometry.kv_heads,
        "head_dim": geometry.head,
        "vocab_size": geometry.vocab,
        "max_position_embeddings": metadata.integer(f"{name}.context_length"),
        "rms_norm_eps": metadata.number(f"{name}.attention.layer_norm_rms_epsilon"),
        # transformers 4 reads the first two, transformers 5 the third.
        "rope_theta": theta,
        "rope_scaling": scaling,
        "rope_parameters": {"rope_theta": theta, **(scaling or {"rope_type": "default"})},
        "tie_word_embeddings": model.tied,
        "use_cache": True,
        "torch_dtype": _TORCH_DTYPES[dtype],
        "dtype": _TORCH_DTYPES[dtype],
    }
    if model.architecture.model_type != "qwen2":  # Qwen2's biases are part of its class
        config["attention_bias"] = model.attention_biased
    if model.architecture.model_type == "llama":
        config["mlp_bias"] = model.mlp_biased
    for key in ("bos", "eos", "pad"):
        config[f"{key}_token_id"] = special_token(metadata, key, geometry.vocab)
    if said := _general(metadata):
        config[CARRIED] = said
    return config


def _general(metadata: Metadata) -> dict[str, Any]:
    """What is said of the model in words, which has no place of its own in config.json."""
    said = {key.removeprefix("general."): value for key, value in metadata.items() if key.startswith("general.")}
    return {
        key: value
        for key, value in said.items()
        if key not in RESERVED
        and (isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value)))
    }


def special_token(metadata: Metadata, key: str, vocab: int) -> int | None:
    """Return the id of a special token (bos, eos, pad, unk, eot, eom), or None where the file names none in range."""
    field = f"tokenizer.ggml.{ {'pad': 'padding', 'unk': 'unknown'}.get(key, key) }_token_id"
    if field not in metadata:
        return None
    value = metadata.integer(field)
    if not 0 <= value < vocab:
        logger.warning("%s: %s = %d is outside the vocabulary of %d: ignored", metadata.path, field, value, vocab)
        return None
    return value


def _rope_scaling(
    metadata: Metadata, model: Model, theta: float, factors: NDArray[np.float32] | None
) -> dict[str, Any] | None:
    """Carry rope scaling over, or refuse what transformers would compute differently."""
    prefix = f"{model.name}.rope.scaling."
    kind = metadata.text(f"{prefix}type", "none")
    carried = {"type": "rope_type", "finetuned": ""}
    if kind in ("linear", "yarn"):
        carried |= {"factor": "factor", "original_context_length": "original_max_position_embeddings"}
    if kind == "yarn":
        carried |= {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}
    left = [key for key in metadata if key.startswith(prefix) and key.removeprefix(prefix) not in carried]
    if f"{model.name}.rope.scale_linear" in metadata:  # the key that rope.scaling replaced
        left.append(f"{model.name}.rope.scale_linear")
    if kind not in ("none", "linear", "yarn") or left or (kind != "none" and factors is not None):
        raise UnsupportedError(
            f"{metadata.path}: rope scaling {kind!r} with {', '.join(left) or ROPE_FACTORS} is not supported",
            hint="known: none, linear, yarn, llama3; others: quantize the original safetensors checkpoint",
        )
    if factors is not None:
        return _llama3_scaling(metadata, model, theta, factors)
    if kind == "none":
        return None
    scaling: dict[str, Any] = {"rope_type": kind, "factor": metadata.number(f"{prefix}factor")}
    for key, new in carried.items():
        if new not in ("", "rope_type", "factor") and f"{prefix}{key}" in metadata:
            value = metadata.number(f"{prefix}{key}")
            scaling[new] = int(value) if key == "original_context_length" else value
    return scaling


def _llama3_scaling(
    metadata: Metadata, model: Model, theta: float, factors: NDArray[np.float32]
) -> dict[str, Any] | None:
    """Find the llama3 parameters that reproduce this table of frequency divisors; refuse a table they do not."""
    head = model.geometry.head
    if factors.shape == (head // 2,) and np.all(factors == 1):
        return None
    wavelengths = 2 * pi * theta ** (np.arange(0, head, 2) / head)
    factor = float(factors.max())
    for context in _llama3_contexts(factors, wavelengths, factor):
        smooth = np.clip((context / wavelengths - _LOW_FREQ_FACTOR) / (_HIGH_FREQ_FACTOR - _LOW_FREQ_FACTOR), 0, 1)
        if factors.shape == smooth.shape and np.allclose(factors, 1 / ((1 - smooth) / factor + smooth), rtol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": _LOW_FREQ_FACTOR,
                "high_freq_factor": _HIGH_FREQ_FACTOR,
                "original_max_position_embeddings": context,
            }
    raise UnsupportedError(
        f"{metadata.path}: {ROPE_FACTORS} is no table of llama3 rope scaling",
        hint="quantize the original safetensors checkpoint",
    )


def _llama3_contexts(factors: NDArray[np.float32], wavelengths: NDArray[np.float64], factor: float) -> Iterator[int]:
    """Contexts that may have made this table: the usual ones, and what a divisor between the bands says."""
    if factor <= 0:
        return
    yield from _LLAMA3_CONTEXTS
    if factors.shape == wavelengths.shape:
        for divisor, wavelength in zip(factors.tolist(), wavelengths.tolist(), strict=True):
            if 1 < divisor < factor:
                smooth = (1 / divisor - 1 / factor) / (1 - 1 / factor)
                yield round((smooth * (_HIGH_FREQ_FACTOR - _LOW_FREQ_FACTOR) + _LOW_FREQ_FACTOR) * wavelength)
