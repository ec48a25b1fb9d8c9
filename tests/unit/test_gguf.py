"""GGUF models in Hugging Face terms: values equal the `gguf` package's, names and config are transformers'."""

import json
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, quants

from halve.checkpoint.base import DTYPES, read_array
from halve.checkpoint.gguf import ENCODINGS, GgufFile
from halve.checkpoint.gguf_checkpoint import PLAIN, QUANTIZED, GgufCheckpoint
from halve.checkpoint.gguf_llama import ARCHITECTURES, source_rows
from halve.errors import CheckpointError, UnsupportedError
from tiny.gguf_models import TinyModel, interleave

QKV = ("attn_q", "attn_k", "attn_v")
QKVO = (*QKV, "attn_output")
MLP = ("ffn_gate", "ffn_up", "ffn_down")


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "tiny.gguf"


def open_model(path: Path, **model: Any) -> tuple[TinyModel, GgufCheckpoint]:
    tiny = TinyModel(**model)
    return tiny, GgufCheckpoint(tiny.write(path))


def hugging_face_rows(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undo the converter's reordering, by the formula of FINDINGS rather than by row numbers."""
    rows = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return rows.swapaxes(1, 2).reshape(weight.shape)


# --- the container ---


def test_encodings_equal_ggmls_table():
    theirs = {kind.value: (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}
    ours = {row.id: (row.name, row.block_size, row.block_bytes) for row in ENCODINGS.values()}
    known = ours.keys() & theirs.keys()  # a version of the package may know fewer or more
    assert len(known) >= 30
    assert {kind: ours[kind] for kind in known} == {kind: theirs[kind] for kind in known}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [32, 64, 4096])
def test_header_equals_the_gguf_packages_reading(path, version, alignment):
    metadata = {
        "general.alignment": alignment,
        "test.flag": True,
        "test.text": "ü \U0001f600\nline",
        "test.empty": "",
        "test.negatives": [-1, -(2**31)],
        "test.floats": [0.5, -1e30],
        "test.flags": [True, False],
        "test.texts": ["", "a", "ß"],
    }
    TinyModel(metadata=metadata, encoding="Q4_0").write(path)
    content = bytearray(path.read_bytes())
    content[4] = version
    path.write_bytes(content)
    theirs = GGUFReader(path)
    with GgufFile(path) as ours:
        assert ours.version == version
        header = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count")
        assert list(ours.metadata) == [key for key in theirs.fields if key not in header]
        for key, value in ours.metadata.items():
            theirs_value = theirs.fields[key].contents()
            ours_value = value.tolist() if isinstance(value, np.ndarray) else value
            if isinstance(theirs_value, float):
                assert np.float32(ours_value) == np.float32(theirs_value)
            else:
                assert ours_value == theirs_value, key
        assert [
            (tensor.name, tensor.encoding.id, tensor.shape, tensor.offset, tensor.nbytes)
            for tensor in ours.tensors.values()
        ] == [
            (tensor.name, tensor.tensor_type, tuple(tensor.shape.tolist())[::-1], tensor.data_offset, tensor.n_bytes)
            for tensor in theirs.tensors
        ]


def test_numbers_are_the_shortest_that_give_the_stored_float32(path):
    TinyModel(metadata={"test.eps": 1e-05, "test.big": 1e6}).write(path)
    with GgufFile(path) as file:
        assert (file.metadata["test.eps"], file.metadata["test.big"]) == (1e-05, 1e6)


def test_the_reading_path_maps_nothing(path, monkeypatch):
    tiny = TinyModel(encoding="Q8_0")
    tiny.write(path)

    def refuse(*_args: object, **_options: object) -> None:
        pytest.fail("the file was mapped")

    monkeypatch.setattr(mmap, "mmap", refuse)
    monkeypatch.setattr(np, "memmap", refuse)
    checkpoint = GgufCheckpoint(path)
    for name in checkpoint.tensors:
        read_array(checkpoint, name)
        checkpoint.release(name)
    checkpoint.auxiliary()
    checkpoint.close()


# --- values ---


@pytest.mark.parametrize("encoding", [*QUANTIZED, "BF16"])
def test_values_equal_the_gguf_packages(path, encoding):
    tiny, checkpoint = open_model(path, encoding=encoding, tied=False)
    names = {info.tensor.name: name for name, info in checkpoint._sources.items()}
    assert len(names) == len(tiny.data)
    for name, (data, kind) in tiny.data.items():
        expected = tiny.expected(name)
        assert kind == ("F32" if expected.ndim == 1 else encoding)
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            expected = hugging_face_rows(expected, tiny.heads if "attn_q" in name else tiny.kv_heads)
        info = checkpoint.tensors[names[name]]
        assert (info.dtype, info.shape) == ("BF16", expected.shape)
        ours = read_array(checkpoint, names[name])
        assert np.array_equal(ours.view(np.uint16), expected.astype(ml_dtypes.bfloat16).view(np.uint16)), name
        assert data.size
    checkpoint.close()


@pytest.mark.parametrize(("encoding", "dtype"), [("F32", np.float32), ("F16", np.float16)])
def test_plain_types_keep_their_type_and_bits(path, encoding, dtype):
    tiny, checkpoint = open_model(path, encoding=encoding)
    assert {info.dtype for info in checkpoint.tensors.values()} == {encoding}
    assert checkpoint.config["dtype"] == checkpoint.config["torch_dtype"] == np.dtype(dtype).name
    ours = read_array(checkpoint, "model.layers.1.self_attn.v_proj.weight")
    assert ours.tobytes() == tiny.data["blk.1.attn_v.weight"][0].tobytes()
    norm = read_array(checkpoint, "model.norm.weight")
    assert np.array_equal(norm, tiny.data["output_norm.weight"][0].astype(dtype))
    checkpoint.close()


def test_one_matrix_of_another_type_makes_everything_bf16(path):
    tiny = TinyModel(encoding="F16")
    norms = tiny.write(path)
    mixed = {"output.weight": (np.ones((tiny.vocab, tiny.hidden), np.float32), "F32")}
    checkpoint = GgufCheckpoint(TinyModel(encoding="F16", extra=mixed).write(norms))
    assert {info.dtype for info in checkpoint.tensors.values()} == {"BF16"}
    assert checkpoint.config["dtype"] == "bfloat16"
    checkpoint.close()


def test_float32_is_rounded_to_bf16_as_ml_dtypes_does(path):
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2**32, (300, 256), dtype=np.uint32)
    bits[0, :8] = [0x3F808000, 0x3F818000, 0x3F807FFF, 0x7F800001, 0xFFC00000, 0x7F7FFFFF, 0x00000001, 0x80000000]
    tiny, checkpoint = open_model(path, encoding="Q8_0", extra={"output.weight": (bits.view(np.float32), "F32")})
    with np.errstate(all="ignore"):
        expected = tiny.expected("output.weight").astype(ml_dtypes.bfloat16)
    ours = read_array(checkpoint, "lm_head.weight")
    assert ours.tobytes() == expected.tobytes()
    assert ours.view(np.uint16)[0, :2].tolist() == [0x3F80, 0x3F82]  # both ties go to even
    checkpoint.close()


def test_norms_beyond_f16_are_refused_rather_than_written_as_infinity(path):
    extra = {"output_norm.weight": (np.full(256, 1e5, np.float32), "F32")}
    _, checkpoint = open_model(path, encoding="F16", extra=extra)
    with pytest.raises(CheckpointError, match=r"'output_norm\.weight' holds values beyond F16") as error:
        read_array(checkpoint, "model.norm.weight")
    assert error.value.hint
    checkpoint.close()


@pytest.mark.filterwarnings("error")
def test_scales_that_are_no_numbers_are_passed_on(path):
    blocks = np.zeros((300, 8, 34), np.uint8)
    blocks[0, 0, :2] = np.array([np.inf], np.float16).view(np.uint8)  # Inf * code 0 is NaN
    blocks[1, 0, :2] = np.array([np.nan], np.float16).view(np.uint8)
    _, checkpoint = open_model(path, encoding="Q8_0", extra={"output.weight": (blocks.reshape(300, -1), "Q8_0")})
    head = read_array(checkpoint, "lm_head.weight").astype(np.float32)
    assert np.isnan(head[:2, :32]).all()
    assert not head[2:].any()
    checkpoint.close()


# --- row ranges and order ---


@pytest.mark.parametrize("encoding", ["Q4_1", "Q4_K", "BF16", "F32", "F16"])
@pytest.mark.parametrize("name", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "input_layernorm"])
def test_row_ranges_equal_the_whole(path, encoding, name):
    _, checkpoint = open_model(path, encoding=encoding, layers=1)
    name = f"model.layers.0.{name}.weight"
    whole = read_array(checkpoint, name)
    rows = checkpoint.tensors[name].rows
    edges = [0, 1, 2, 31, 32, 33, 63, 64, 65, 100, 127, 128, rows - 1, rows]
    for start in edges:
        for stop in edges:
            if start <= stop:
                part = read_array(checkpoint, name, start, stop)
                assert part.tobytes() == whole[start:stop].tobytes(), (start, stop)
    checkpoint.close()


def test_bands_smaller_than_a_row_of_work_are_the_same(path, monkeypatch):
    _, checkpoint = open_model(path, encoding="Q5_0")
    whole = {name: read_array(checkpoint, name).tobytes() for name in checkpoint.tensors}
    for chunk in (1, 256 * 7, 256 * 64):
        monkeypatch.setattr("halve.checkpoint.gguf_checkpoint.CHUNK", chunk)
        assert whole == {name: read_array(checkpoint, name).tobytes() for name in checkpoint.tensors}
    checkpoint.close()


def test_only_the_rows_asked_for_are_dequantized_and_few_others_read(path, monkeypatch):
    _, checkpoint = open_model(path, encoding="Q4_0")
    dequantized, read = [], []
    dequantize, preadv = quants.dequantize, os.preadv
    monkeypatch.setattr(
        quants, "dequantize", lambda data, kind: (dequantized.append(data.nbytes), dequantize(data, kind))[1]
    )
    monkeypatch.setattr(
        os, "preadv", lambda fd, buffers, offset: (read.append(len(buffers[0])), preadv(fd, buffers, offset))[1]
    )
    row = 256 // 32 * 18
    read_array(checkpoint, "model.layers.0.self_attn.v_proj.weight", 5, 12)
    assert (dequantized, read) == ([7 * row], [7 * row])
    dequantized.clear()
    read.clear()
    read_array(checkpoint, "model.layers.0.self_attn.q_proj.weight", 70, 75)  # in the second head of 64
    assert dequantized == [5 * row]
    assert sum(read) <= 64 * row
    checkpoint.close()


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (4, 4), (4, 1), (3, 1)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_query_and_key_rows_come_back_in_transformers_order(path, architecture, heads, kv_heads):
    """Write q and k as a converter does; what is read must be what the converter was given."""
    rng = np.random.default_rng(3)
    original = {
        "q": rng.standard_normal((heads * 64, 256), dtype=np.float32),
        "k": rng.standard_normal((kv_heads * 64, 256), dtype=np.float32),
        "v": rng.standard_normal((kv_heads * 64, 256), dtype=np.float32),
    }
    counts = {"q": heads, "k": kv_heads}
    permuted = architecture == "llama"
    extra = {
        f"blk.0.attn_{name}.weight": (
            interleave(weight, counts[name]) if permuted and name in counts else weight,
            "F32",
        )
        for name, weight in original.items()
    }
    biases = QKV if architecture == "qwen2" else ()
    tiny = TinyModel(
        architecture=architecture,
        heads=heads,
        kv_heads=kv_heads,
        layers=1,
        extra=extra,
        biases=biases,
        head_norms=architecture == "qwen3",
    )
    checkpoint = GgufCheckpoint(tiny.write(path))
    for name, weight in original.items():
        assert np.array_equal(read_array(checkpoint, f"model.layers.0.self_attn.{name}_proj.weight"), weight), name
    checkpoint.close()


def test_biases_are_reordered_like_their_rows(path):
    rng = np.random.default_rng(4)
    bias = {"q": rng.standard_normal(256, dtype=np.float32), "k": rng.standard_normal(128, dtype=np.float32)}
    extra = {
        f"blk.{layer}.attn_{name}.bias": (interleave(bias[name], heads), "F32")
        for layer in (0, 1)
        for name, heads in (("q", 4), ("k", 2))
    }
    _, checkpoint = open_model(path, biases=QKVO, extra=extra)
    for name, values in bias.items():
        assert np.array_equal(read_array(checkpoint, f"model.layers.1.self_attn.{name}_proj.bias"), values)
        part = read_array(checkpoint, f"model.layers.1.self_attn.{name}_proj.bias", 33, 101)
        assert np.array_equal(part, values[33:101])
    checkpoint.close()


@pytest.mark.parametrize("head", [2, 4, 64, 128])
def test_source_rows_undo_the_interleaving(head):
    rows = np.arange(3 * head)
    assert np.array_equal(interleave(rows, 3)[source_rows(0, rows.size, head)], rows)


def test_several_workers_read_at_once(path):
    _, checkpoint = open_model(path, encoding="Q6_K")
    names = list(checkpoint.tensors) * 8
    alone = {name: read_array(checkpoint, name).tobytes() for name in checkpoint.tensors}
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda name: read_array(checkpoint, name).tobytes(), names))
    assert together == [alone[name] for name in names]
    checkpoint.close()


def test_a_larger_buffer_is_filled_in_part(path):
    _, checkpoint = open_model(path, encoding="Q8_0")
    name = "model.embed_tokens.weight"
    row_bytes = checkpoint.tensors[name].row_bytes
    buffer = bytearray(b"\xaa" * (5 * row_bytes))
    filled = checkpoint.read(name, 7, 10, memoryview(buffer))
    assert filled.nbytes == 3 * row_bytes
    assert bytes(filled) == read_array(checkpoint, name, 7, 10).tobytes()
    assert bytes(buffer[3 * row_bytes :]) == b"\xaa" * (2 * row_bytes)
    checkpoint.close()


def test_tensors_come_in_the_order_of_their_data(path):
    TinyModel(encoding="Q8_0").write(path)
    content = bytearray(path.read_bytes())
    names = [f"blk.{layer}.ffn_gate.weight".encode() for layer in (0, 1)]  # of one size: let them change places
    ends = [content.index(name) + len(name) + 4 + 2 * 8 + 4 for name in names]  # dimensions, sizes, type
    offsets = [content[end : end + 8] for end in ends]
    for end, offset in zip(ends, reversed(offsets), strict=True):
        content[end : end + 8] = offset
    path.write_bytes(content)
    checkpoint = GgufCheckpoint(path)
    gates = [name for name in checkpoint.tensors if "gate" in name]
    assert gates == ["model.layers.1.mlp.gate_proj.weight", "model.layers.0.mlp.gate_proj.weight"]
    checkpoint.close()


@pytest.mark.parametrize(("start", "stop", "nbytes"), [(-1, 2, 4096), (2, 1, 4096), (0, 301, 301 * 512), (0, 3, 1535)])
def test_rows_that_are_not_there_are_the_callers_mistake(path, start, stop, nbytes):
    _, checkpoint = open_model(path, encoding="Q8_0")
    with pytest.raises(ValueError, match=r"model\.embed_tokens\.weight, which has 300"):
        checkpoint.read("model.embed_tokens.weight", start, stop, memoryview(bytearray(nbytes)))
    checkpoint.close()


# --- names ---


def hugging_face_names(layers: int, extra: tuple[str, ...] = ()) -> set[str]:
    stems = [
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        *(f"self_attn.{name}_proj.weight" for name in "qkvo"),
        *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
        *extra,
    ]
    blocks = {f"model.layers.{layer}.{stem}" for layer in range(layers) for stem in stems}
    return {"model.embed_tokens.weight", "model.norm.weight"} | blocks


ATTENTION_BIASES = tuple(f"self_attn.{name}_proj.bias" for name in "qkv")


@pytest.mark.parametrize(
    ("model", "extra", "class_name"),
    [
        ({"architecture": "llama"}, (), "LlamaForCausalLM"),
        ({"architecture": "llama", "biases": QKVO}, (*ATTENTION_BIASES, "self_attn.o_proj.bias"), "LlamaForCausalLM"),
        (
            {"architecture": "llama", "biases": MLP},
            ("mlp.gate_proj.bias", "mlp.up_proj.bias", "mlp.down_proj.bias"),
            "LlamaForCausalLM",
        ),
        ({"architecture": "qwen2", "biases": QKV}, ATTENTION_BIASES, "Qwen2ForCausalLM"),
        (
            {"architecture": "qwen3", "head_norms": True},
            ("self_attn.q_norm.weight", "self_attn.k_norm.weight"),
            "Qwen3ForCausalLM",
        ),
    ],
)
def test_names_are_transformers(path, model, extra, class_name):
    _, checkpoint = open_model(path, layers=3, **model)
    assert set(checkpoint.tensors) == hugging_face_names(3, extra)
    assert all(name == info.name for name, info in checkpoint.tensors.items())
    assert checkpoint.config["architectures"] == [class_name]
    biases = model.get("biases", ())
    assert checkpoint.config.get("attention_bias") == (None if class_name.startswith("Qwen2") else "attn_q" in biases)
    assert checkpoint.config.get("mlp_bias") == ("ffn_up" in biases if class_name.startswith("Llama") else None)
    checkpoint.close()


@pytest.mark.parametrize("tied", [True, False])
def test_an_absent_output_layer_means_tied_embeddings(path, tied):
    _, checkpoint = open_model(path, tied=tied)
    assert checkpoint.config["tie_word_embeddings"] is tied
    assert ("lm_head.weight" in checkpoint.tensors) is not tied
    checkpoint.close()


def test_old_rotary_tables_are_left_out(path):
    extra = {"blk.0.attn_rot_embd.weight": (np.ones(32, np.float32), "F32")}
    _, checkpoint = open_model(path, extra=extra)
    assert set(checkpoint.tensors) == hugging_face_names(2)
    checkpoint.close()


# --- config.json ---


def test_config(path):
    metadata = {
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "llama.rope.freq_base": 500000.0,
    }
    _, checkpoint = open_model(path, encoding="Q4_0", metadata=metadata)
    assert checkpoint.config == {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": 300,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "rope_scaling": None,
        "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
        "tie_word_embeddings": True,
        "use_cache": True,
        "torch_dtype": "bfloat16",
        "dtype": "bfloat16",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }
    json.dumps(checkpoint.config, allow_nan=False)
    checkpoint.close()


def test_what_a_converter_leaves_out_has_llama_cpps_default(path):
    absent = ("attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.dimension_count")
    metadata = {f"llama.{key}": None for key in (*absent, "rope.freq_base")}
    _, checkpoint = open_model(path, kv_heads=4, metadata=metadata)
    config = checkpoint.config
    assert (config["num_key_value_heads"], config["head_dim"], config["rope_theta"]) == (4, 64, 10000.0)
    checkpoint.close()


def test_sizes_given_once_a_layer(path):
    metadata = {
        "llama.attention.head_count": [4, 4],
        "llama.attention.head_count_kv": [2, 2],
        "llama.feed_forward_length": [512, 512],
    }
    _, checkpoint = open_model(path, metadata=metadata)
    config = checkpoint.config
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["intermediate_size"]) == (4, 2, 512)
    checkpoint.close()


def llama3_factors(factor: float, context: int, theta: float, head: int = 64) -> np.ndarray:
    """Frequency divisors as convert_hf_to_gguf computes them, frequency by frequency."""
    low, high = 1.0, 4.0
    factors = []
    for pair in range(head // 2):
        wavelength = 2 * np.pi * theta ** (2 * pair / head)
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


@pytest.mark.parametrize(("factor", "context"), [(8.0, 8192), (32.0, 8192), (4.0, 4096)])
def test_llama3_rope_scaling_is_found_from_its_table(path, factor, context):
    extra = {"rope_freqs.weight": (llama3_factors(factor, context, 500000.0), "F32")}
    _, checkpoint = open_model(path, metadata={"llama.rope.freq_base": 500000.0}, extra=extra)
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": context,
    }
    assert checkpoint.config["rope_scaling"] == scaling
    assert checkpoint.config["rope_parameters"] == {"rope_theta": 500000.0, **scaling}
    assert "rope_freqs.weight" not in checkpoint.tensors
    checkpoint.close()


def test_a_table_of_ones_is_no_scaling(path):
    _, checkpoint = open_model(path, extra={"rope_freqs.weight": (np.ones(32, np.float32), "F32")})
    assert checkpoint.config["rope_scaling"] is None
    checkpoint.close()


@pytest.mark.parametrize(
    ("pairs", "scaling"),
    [
        ({"type": "none"}, None),
        ({"type": "linear", "factor": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        (
            {"type": "yarn", "factor": 4.0, "original_context_length": 32768, "finetuned": True},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        ),
        (
            {"type": "yarn", "factor": 4.0, "yarn_beta_fast": 16.0, "yarn_beta_slow": 2.0},
            {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16.0, "beta_slow": 2.0},
        ),
    ],
)
def test_rope_scaling_is_carried_over(path, pairs, scaling):
    metadata = {f"llama.rope.scaling.{key}": value for key, value in pairs.items()}
    _, checkpoint = open_model(path, metadata=metadata)
    assert checkpoint.config["rope_scaling"] == scaling
    checkpoint.close()


# --- what is refused ---


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"architecture": "gemma3"}, "architecture 'gemma3' is not supported"),
        ({"metadata": {"llama.expert_count": 8}}, "a mixture of experts"),
        ({"metadata": {"split.count": 3}}, "one of 3 parts of a split model"),
        ({"metadata": {"llama.logit_scale": 8.0}}, r"llama\.logit_scale = 8\.0 has no place in LlamaForCausalLM"),
        (
            {"metadata": {"llama.attention.head_count": [4, 8]}},
            r"head_count is not one positive number in all layers: \[4, 8\]",
        ),
        ({"metadata": {"llama.attention.head_count": [0, 0]}}, "not one positive number in all layers"),
        ({"metadata": {"llama.rope.dimension_count": 32}}, "dimension_count = 32 differs from the head size 64"),
        ({"metadata": {"llama.attention.value_length": 32}}, "value_length = 32 differs from the head size 64"),
        ({"metadata": {"llama.rope.scaling.type": "longrope"}}, "rope scaling 'longrope'"),
        (
            {"metadata": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.yarn_log_multiplier": 0.1}},
            r"rope scaling 'linear' with llama\.rope\.scaling\.yarn_log_multiplier",
        ),
        ({"metadata": {"llama.rope.scale_linear": 2.0}}, r"with llama\.rope\.scale_linear"),
        (
            {"extra": {"rope_freqs.weight": (np.linspace(1, 2, 32, dtype=np.float32), "F32")}},
            "no table of llama3 rope scaling",
        ),
        (
            {
                "metadata": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0},
                "extra": {"rope_freqs.weight": (np.ones(32, np.float32), "F32")},
            },
            r"rope scaling 'linear' with rope_freqs\.weight",
        ),
        ({"biases": ("attn_q",)}, "LlamaForCausalLM cannot hold this set of biases: attn_q"),
        ({"architecture": "qwen2"}, "Qwen2ForCausalLM cannot hold this set of biases: none"),
        ({"head_norms": True}, r"LlamaForCausalLM has no place for tensor 'blk\.0\.attn_q_norm\.weight'"),
        (
            {"extra": {"blk.7.attn_q.weight": (np.ones((256, 256), np.float32), "F32")}},
            r"no place for tensor 'blk\.7\.attn_q\.weight'",
        ),
        (
            {"extra": {"blk.0.ffn_up.weight": (np.zeros((512, 192), np.uint8), "Q5_1")}},
            r"tensor 'blk\.0\.ffn_up\.weight' of shape \(512, 256\) has type Q5_1",
        ),
        (
            {"extra": {"output_norm.weight": (np.zeros((272,), np.uint8), "Q8_0")}},
            r"tensor 'output_norm\.weight' of shape \(256,\) has type Q8_0",
        ),
    ],
)
def test_what_cannot_be_carried_over_is_refused(path, model, says):
    TinyModel(**model).write(path)
    with pytest.raises(UnsupportedError, match=says) as error:
        GgufCheckpoint(path)
    assert str(path) in str(error.value)
    assert error.value.hint


def test_an_unknown_architecture_names_the_known_ones(path):
    TinyModel(architecture="gemma3").write(path)
    with pytest.raises(UnsupportedError) as error:
        GgufCheckpoint(path)
    assert all(name in error.value.hint for name in ARCHITECTURES)


OTHERS = {row.name for row in ENCODINGS.values()} & GGMLQuantizationType.__members__.keys() - {*QUANTIZED, *PLAIN}


@pytest.mark.parametrize("encoding", sorted(OTHERS))
def test_every_other_tensor_type_is_refused_by_name(path, encoding):
    size, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[encoding]]
    data = np.zeros((300, 256 // size * nbytes), np.uint8)
    TinyModel(extra={"token_embd.weight": (data, encoding)}).write(path)
    with pytest.raises(UnsupportedError, match=rf"'token_embd\.weight' .* has type {encoding}$"):
        GgufCheckpoint(path)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"metadata": {"general.architecture": 3}}, "general.architecture must be a string, not 3"),
        ({"metadata": {"llama.embedding_length": None}}, "the metadata has no llama.embedding_length"),
        ({"metadata": {"llama.context_length": None}}, "the metadata has no llama.context_length"),
        ({"metadata": {"llama.block_count": 2.0}}, r"llama.block_count must be an integer, not 2\.0"),
        ({"metadata": {"llama.block_count": True}}, "llama.block_count must be an integer, not True"),
        ({"metadata": {"llama.block_count": 3}}, r"tensor 'blk\.2\.attn_norm\.weight' is missing"),
        ({"metadata": {"llama.block_count": 2**32 - 1}}, r"tensor 'blk\.2\.attn_norm\.weight' is missing"),
        ({"metadata": {"llama.block_count": 0}}, r"block_count = 0 is not positive"),
        ({"metadata": {"llama.attention.head_count": 0}}, "head_count = 0 is not positive"),
        ({"metadata": {"llama.attention.head_count_kv": 3}}, "no attention geometry"),
        ({"metadata": {"llama.attention.key_length": 33}}, "no attention geometry"),
        (
            {"metadata": {"llama.attention.head_count": 8}},
            r"'blk\.0\.attn_q\.weight' has shape \(256, 256\), .*\(512, 256\)",
        ),
        ({"metadata": {"llama.embedding_length": 128}}, r"'token_embd\.weight' has shape"),
        ({"metadata": {"llama.rope.freq_base": 0.0}}, "freq_base = 0.0 is not positive"),
        ({"metadata": {"llama.rope.freq_base": float("nan")}}, "freq_base must be a finite number, not nan"),
        (
            {"metadata": {"llama.attention.layer_norm_rms_epsilon": float("inf")}},
            "rms_epsilon must be a finite number, not inf",
        ),
        ({"extra": {"rope_freqs.weight": (np.ones(31, np.float32), "F32")}}, r"is not F32 of shape \(32,\)"),
        ({"extra": {"rope_freqs.weight": (np.ones(32, np.float16), "F16")}}, r"is not F32 of shape \(32,\)"),
    ],
)
def test_metadata_that_contradicts_the_tensors_is_refused(path, model, says):
    TinyModel(**model).write(path)
    with pytest.raises(CheckpointError, match=says) as error:
        GgufCheckpoint(path)
    assert str(path) in str(error.value)
    assert error.value.hint


def test_reading_a_file_that_shrank_is_an_error(path):
    _, checkpoint = open_model(path, encoding="Q8_0")
    os.truncate(path, path.stat().st_size - 100_000)
    with pytest.raises(CheckpointError, match=r"blk\.1\.ffn_down\.weight: the file ends at byte \d+, \d+ bytes early"):
        read_array(checkpoint, "model.layers.1.mlp.down_proj.weight")
    checkpoint.close()


def test_reading_after_close_is_an_error_and_closing_twice_is_none(path):
    _, checkpoint = open_model(path)
    checkpoint.close()
    checkpoint.close()
    with pytest.raises(CheckpointError, match="cannot be read: Bad file descriptor"):
        read_array(checkpoint, "model.norm.weight")


def test_dtypes_of_the_checkpoint_contract_are_used():
    assert {"F32", "F16", "BF16"} <= DTYPES.keys()
