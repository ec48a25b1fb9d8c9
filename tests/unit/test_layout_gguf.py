"""GGUF as a layout: what is written is read code for code, has the `gguf` package's values, and damage is refused."""

import hashlib
import json
import runpy
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, quants

import halve
from halve import layouts, schemes
from halve.checkpoint.base import TensorInfo, read_array
from halve.checkpoint.gguf import ENCODINGS
from halve.checkpoint.gguf_blocks import BLOCKS, pack, unpack
from halve.checkpoint.gguf_checkpoint import GgufCheckpoint
from halve.checkpoint.hf import HfCheckpoint
from halve.checkpoint.source import open_checkpoint
from halve.errors import CheckpointError, FormatError, RecipeError, UnsupportedError
from halve.layouts.base import Contents
from halve.runtime.load import load
from halve.schemes import SCHEMES, Block
from halve.schemes.quantize import absmax, dequantize, quantize, tensor_scale
from tiny import llama
from tiny.gguf_models import TinyModel, interleave, random_blocks
from tiny.vocabularies import byte_level

GOLDEN = Path(__file__).parents[1] / "golden" / "layouts" / "gguf"
THEIRS = json.loads((GOLDEN / "theirs.json").read_text())["blocks"]
OURS = json.loads((GOLDEN / "ours.json").read_text())
LAYOUT = layouts.get("gguf")
ENCODING = {row.name: row for row in ENCODINGS.values()}
HELD = [s.name for s in SCHEMES.values() if not LAYOUT.supports(s).refused]
QUANTIZED = [name for name in HELD if not schemes.get(name).dense and not schemes.get(name).needs_calibration]
STORED_AS = {
    "int4_g32": "Q4_0",
    "int4_min_g32": "Q4_1",
    "int8_g32": "Q8_0",
    "mxfp4": "MXFP4",
    "mxfp4a16": "MXFP4",
    "nvfp4a16": "NVFP4",
}
WIDE = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32, "vocab_size": 80}
Q, UP = "model.layers.1.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"


def source(folder: Path, name="llama", **changes) -> Path:
    """A model in BF16, so that a reader who presents it in BF16 loses nothing."""
    config = llama.decoder_config(name, **(WIDE | {"torch_dtype": "bfloat16"} | changes))
    tensors = {name: array.astype(ml_dtypes.bfloat16) for name, array in llama.decoder_weights(config).items()}
    return llama.write_decoder(folder / f"source-{name}", config, tensors)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return source(tmp_path_factory.mktemp("plain"))


def opened(folder: Path) -> GgufCheckpoint:
    checkpoint = open_checkpoint(folder)
    assert isinstance(checkpoint, GgufCheckpoint)
    return checkpoint


# --- blocks ---


@pytest.mark.parametrize("name", THEIRS)
def test_their_blocks_have_their_values_and_come_back_byte_for_byte(name):
    golden = THEIRS[name]
    raw = np.frombuffer(bytes.fromhex(golden["hex"]), np.uint8).reshape(golden["shape"])
    q = unpack(ENCODING[name], raw)
    assert q.block == BLOCKS[name]
    values = dequantize(q) + np.float32(0)  # ggml has no -0
    assert hashlib.sha256(values.tobytes()).hexdigest() == golden["sha256"]
    assert pack(ENCODING[name], q).tobytes() == raw.tobytes()


@pytest.mark.parametrize("name", HELD)
def test_our_bytes_are_what_they_were(name):
    assert runpy.run_path(str(GOLDEN / "ours.py"))["tensors"](name) == OURS[name]["tensors"]


@pytest.mark.parametrize("name", [name for name in HELD if "file" in OURS[name]])
def test_our_files_are_what_they_were(name, tmp_path):
    assert runpy.run_path(str(GOLDEN / "ours.py"))["whole"](name, tmp_path) == OURS[name]["file"]


def test_scales_of_nvfp4_are_encoded_exactly():
    """The package's own encoder makes 448 of all from 256 to 416."""
    block = BLOCKS["NVFP4"]
    codes = np.arange(1, 127, dtype=np.uint8)
    raw = np.zeros((1, 32 * 36), np.uint8)
    raw.reshape(32, 36)[:, :4] = np.resize(codes, (32, 4))
    q = unpack(ENCODING["NVFP4"], raw)
    assert q.scales.shape == block.scale_shape(1, 2048)
    assert len(np.unique(q.scales)) == 126
    assert pack(ENCODING["NVFP4"], q).tobytes() == raw.tobytes()


@pytest.mark.parametrize("kind", ["gaussian", "shifted", "outliers", "constant blocks"])
def test_q4_1_has_their_scales_and_minima_and_codes_that_are_never_further(kind):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((64, 256), dtype=np.float32)
    if kind == "shifted":
        w += 3
    elif kind == "outliers":
        w[rng.random(w.shape) < 0.01] *= 50
    elif kind == "constant blocks":
        w[:, 32:96] = 0.75
    theirs = unpack(ENCODING["Q4_1"], quants.quantize(w, GGMLQuantizationType.Q4_1))
    ours = quantize(BLOCKS["Q4_1"], w)
    flat = np.ptp(w.reshape(64, -1, 32), -1) == 0  # scale 1 here, 0 there
    np.testing.assert_array_equal(ours.scales[~flat], theirs.scales[~flat])
    np.testing.assert_array_equal(ours.mins, theirs.mins)
    near, far = (np.abs(dequantize(q).astype(np.float64) - w) for q in (ours, theirs))
    assert (near <= far + 2e-7 * np.abs(w).max()).all()
    assert (near**2).sum() <= (far**2).sum()


# --- what it holds ---


def test_schemes_that_it_holds():
    assert {name for name in HELD if not schemes.get(name).dense} == {*STORED_AS, "nvfp4"}
    assert {name for name in HELD if schemes.get(name).dense} == {"fp32", "fp16", "bf16"}
    for scheme in SCHEMES.values():
        support = LAYOUT.supports(scheme)
        assert bool(support.refused) != bool(support.engines)


@pytest.mark.parametrize(
    ("block", "held"),
    [
        (Block(element="int4", scale="bf16", block_size=32), True),  # its scales become FP16
        (Block(element="int4", scale="fp16", block_size=64), False),
        (Block(element="uint4", scale="fp16", block_size=32, zero_point=True), False),
        (Block(element="uint4", scale="fp16", block_size=32), False),
        (Block(element="fp4_e2m1", scale="ue4m3", block_size=16), False),
        (Block(element="fp8_e4m3", scale="e8m0", block_size=32), False),
    ],
)
def test_blocks_of_other_layouts(block, held):
    scheme = schemes.find(block)
    assert bool(LAYOUT.supports(scheme).refused) is not held
    if held:
        assert LAYOUT.bind(scheme, "BF16").weight == BLOCKS["Q4_0"]


def test_activations_that_are_not_like_the_weights_are_refused():
    scheme = schemes.find(BLOCKS["Q4_0"], schemes.get("w8a8").activation)
    assert "activations" in LAYOUT.supports(scheme).refused


# --- whole models ---


@pytest.mark.parametrize("scheme", QUANTIZED)
def test_codes_are_read_back_and_both_readers_agree(plain, tmp_path, scheme):
    halve.quantize(plain, tmp_path / "out", scheme, layout="gguf")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "halve.json", "model.gguf"]
    checkpoint, weights = opened(tmp_path / "out"), HfCheckpoint(plain)
    assert layouts.detect(checkpoint) is LAYOUT
    found = LAYOUT.open(checkpoint)
    assert len(found) == 7 * 3
    theirs = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "out" / "model.gguf").tensors}
    for name, stored in found.items():
        assert checkpoint.stored(name)[0] == STORED_AS[scheme]
        assert stored.scheme.weight == schemes.get(scheme).weight
        w = read_array(weights, name)
        if scheme == "nvfp4a16":  # the scale of the fused group
            scale = checkpoint.scale(name)
            assert scale >= tensor_scale(stored.block, absmax(w))
        else:
            scale = None
        expected = quantize(stored.block, w, tensor_scale=scale)
        q = LAYOUT.read(checkpoint, stored, 0, stored.shape[0])
        np.testing.assert_array_equal(q.codes, expected.codes)
        np.testing.assert_array_equal(q.scales, expected.scales)
        part = LAYOUT.read(checkpoint, stored, 0, 7)
        np.testing.assert_array_equal(part.codes, expected.codes[:7])
        tensor = theirs[checkpoint._sources[name].tensor.name]
        values = quants.dequantize(tensor.data.view(np.uint8), tensor.tensor_type) * np.float32(scale or 1)
        ours = dequantize(q)
        if "q_proj" in name or "k_proj" in name:
            ours = interleave(ours, len(ours) // WIDE["head_dim"])
        np.testing.assert_allclose(ours, values, rtol=2**-22)
    proof = halve.verify(tmp_path / "out", against=plain)
    assert proof.problems == ()
    assert {loss.name for loss in proof.losses} == found.keys()
    checkpoint.close()


@pytest.mark.parametrize(("scheme", "dtype"), [("fp32", "F32"), ("fp16", "F16"), ("bf16", "BF16")])
def test_casts_keep_vectors_in_f32(plain, tmp_path, scheme, dtype):
    halve.quantize(plain, tmp_path / "out", scheme, layout="gguf")
    checkpoint, weights = opened(tmp_path / "out"), HfCheckpoint(plain)
    assert LAYOUT.open(checkpoint) == {}
    for name, info in weights.tensors.items():
        assert checkpoint.stored(name)[0] == (dtype if len(info.shape) > 1 else "F32")
        numbers = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}[dtype]
        expected = read_array(weights, name).astype(numbers)
        np.testing.assert_array_equal(read_array(checkpoint, name).astype(np.float32), expected.astype(np.float32))
    checkpoint.close()


@pytest.mark.parametrize("name", ["llama_tied", "llama_biased", "mistral_tied", "qwen3", "llama_rope_llama3"])
def test_what_is_written_runs(tmp_path, name):
    """Names, order of rows and config: the logits of the F32 file are those of the source, to the last bit."""
    path = source(tmp_path, name)
    halve.quantize(path, tmp_path / "out", "fp32", layout="gguf")
    before, after = load(path), load(tmp_path / "out")
    tokens = llama.decoder_tokens(before.config)
    np.testing.assert_array_equal(after.logits(tokens), before.logits(tokens))


def test_no_matter_how_many_threads(plain, tmp_path):
    for threads in (1, 4):
        halve.quantize(plain, tmp_path / str(threads), "nvfp4a16", layout="gguf", threads=threads)
    assert (tmp_path / "1" / "model.gguf").read_bytes() == (tmp_path / "4" / "model.gguf").read_bytes()


def test_parts_become_one_file(plain, tmp_path):
    halve.quantize(plain, tmp_path / "one", "int4_g32", layout="gguf")
    halve.quantize(plain, tmp_path / "many", "int4_g32", layout="gguf", shard_bytes=10_000)
    assert (tmp_path / "one" / "model.gguf").read_bytes() == (tmp_path / "many" / "model.gguf").read_bytes()


def test_the_size_is_known_beforehand(plain, tmp_path):
    result = halve.quantize(plain, tmp_path / "out", "nvfp4a16", layout="gguf")
    assert result.plan.file_bytes() == result.bytes == (tmp_path / "out" / "model.gguf").stat().st_size


def test_two_schemes_in_one_file(plain, tmp_path):
    mixed = [("re:.*down_proj", "int8_g32"), ("re:.*o_proj", "int4_min_g32")]
    halve.quantize(plain, tmp_path / "out", "mxfp4a16", layout="gguf", overrides=mixed)
    checkpoint = opened(tmp_path / "out")
    kinds = {name.split(".")[-2]: stored.scheme.name for name, stored in LAYOUT.open(checkpoint).items()}
    assert (kinds["down_proj"], kinds["o_proj"], kinds["q_proj"]) == ("int8_g32", "int4_min_g32", "mxfp4a16")
    checkpoint.close()


def test_licences_travel_beside_it(tmp_path):
    path = source(tmp_path)
    (path / "LICENSE.txt").write_text("free")
    halve.quantize(path, tmp_path / "out", "int8_g32", layout="gguf")
    assert (tmp_path / "out" / "LICENSE.txt").read_text() == "free"


def test_static_activations_have_their_scale_beside_the_weight():
    scheme = schemes.get("nvfp4")
    weight = TensorInfo(UP, "BF16", (256, 128))
    assert [(e.name, e.dtype, e.shape) for e in LAYOUT.entries(weight, scheme)] == [
        (UP, "U8", (256, 72)),
        ("model.layers.1.mlp.up_proj.scale", "F32", (1,)),
        ("model.layers.1.mlp.up_proj.input_scale", "F32", (1,)),
    ]
    q = quantize(scheme.weight, np.ones((128, 128), np.float32))
    first, second = (LAYOUT.write(weight, scheme, q, row, 0.25) for row in (0, 128))
    assert (first["model.layers.1.mlp.up_proj.input_scale"], list(second)) == (np.float32(0.25), [UP])


# --- from one to another ---


@pytest.mark.parametrize("encoding", ["Q4_0", "Q4_1", "Q8_0", "MXFP4", "NVFP4"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_a_gguf_file_is_converted_byte_for_byte(tmp_path, encoding, architecture):
    """Written by the `gguf` package, with a scale beside every matrix; the embedding stays quantized, too."""
    factors = {
        f"blk.{layer}.{name}.scale": (np.array([0.5 + layer], np.float32), "F32")
        for layer in (0, 1)
        for name in ("attn_q", "ffn_up", "ffn_down")
        if encoding == "NVFP4"
    }
    vocabulary = byte_level()
    vocab = len(vocabulary["tokenizer.ggml.tokens"])
    tiny = TinyModel(
        architecture=architecture,
        encoding=encoding,
        vocab=vocab,
        head_norms=architecture == "qwen3",
        extra=factors | {"token_embd.weight": (random_blocks(np.random.default_rng(1), "Q8_0", vocab, 256), "Q8_0")},
        metadata=vocabulary,
    )
    result = halve.convert(tiny.write(tmp_path / "source.gguf"), tmp_path / "out", "gguf")
    assert (result.source_layout, result.losses, result.kept_codes) == ("gguf", (), 15)
    theirs = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "out" / "model.gguf").tensors}
    for name, (data, kind) in tiny.data.items():
        assert theirs[name].tensor_type.name == kind
        expected = data if data.ndim > 1 or len(data) == 1 else data.astype(ml_dtypes.bfloat16).astype(np.float32)
        assert theirs[name].data.tobytes() == expected.tobytes(), name
    matrices = {name for name, (_, kind) in tiny.data.items() if kind == encoding}
    others = theirs.keys() - tiny.data.keys()
    assert others == {name.replace("weight", "scale") for name in matrices if encoding == "NVFP4"} - factors.keys()
    assert all(theirs[name].data.tolist() == [1.0] for name in others)  # a factor of 1, which the source leaves out


def test_there_and_back_through_compressed_tensors(plain, tmp_path):
    """The divisor of one layout and the factor of the other hold the same number."""
    halve.quantize(plain, tmp_path / "a", "nvfp4a16", layout="gguf")
    halve.convert(tmp_path / "a", tmp_path / "b", "compressed-tensors")
    halve.convert(tmp_path / "b", tmp_path / "c", "gguf")
    assert (tmp_path / "a" / "model.gguf").read_bytes() == (tmp_path / "c" / "model.gguf").read_bytes()


def test_scales_of_static_activations_go_there_and_back(tmp_path):
    linears = [name for name in TinyModel().shapes() if "blk." in name and "norm" not in name]
    rng = np.random.default_rng(2)
    extra = {
        name.replace("weight", kind): (rng.uniform(0.01, 0.1, 1).astype(np.float32), "F32")
        for name in linears
        for kind in ("scale", "input_scale")
    }
    extra["token_embd.weight"] = (rng.standard_normal((300, 256)).astype(np.float16), "F16")
    path = TinyModel(encoding="NVFP4", extra=extra).write(tmp_path / "source.gguf")
    there = halve.convert(path, tmp_path / "there", "compressed-tensors")
    back = halve.convert(tmp_path / "there", tmp_path / "back", "gguf")
    assert there.scheme == back.scheme == "nvfp4"
    tensors = {t.name: t.data for t in GGUFReader(tmp_path / "back" / "model.gguf").tensors}
    for name in linears:
        for kind in ("scale", "input_scale"):  # the reciprocal of a reciprocal may be off by one in the last place
            before, after = extra[name.replace("weight", kind)][0], tensors[name.replace("weight", kind)]
            np.testing.assert_allclose(after, before, rtol=2**-23)


# --- what goes wrong ---


def test_an_architecture_without_a_place_is_refused_before_anything_is_made(tmp_path):
    path = source(tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"model_type": "gemma3"}))
    with pytest.raises(UnsupportedError, match="gemma3") as raised:
        halve.quantize(path, tmp_path / "out", "int4_g32", layout="gguf")
    assert raised.value.hint
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_without_a_name_is_refused_and_nothing_is_left(tmp_path):
    path = llama.write(tmp_path / "source")  # bytes that are never split
    with pytest.raises(UnsupportedError, match="way to split text"):
        halve.quantize(path, tmp_path / "out", "int8_g32", layout="gguf")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("scheme", "columns"), [("nvfp4a16", 96), ("int4_g32", 80), ("mxfp4a16", 80)])
def test_rows_that_are_no_whole_blocks(tmp_path, scheme, columns):
    with pytest.raises(FormatError, match=f"{columns} columns is not a multiple of {STORED_AS[scheme]}'s"):
        LAYOUT.entries(TensorInfo(UP, "BF16", (4, columns)), schemes.get(scheme))
    path = source(tmp_path, intermediate_size=columns)
    with pytest.raises(RecipeError, match=r"model\.layers\.0\.mlp\.down_proj\.weight: .* columns") as raised:
        halve.quantize(path, tmp_path / "out", scheme, layout="gguf")
    assert "--ignore" in raised.value.hint


def test_an_embedding_in_nvfp4_is_refused(tmp_path):
    vocabulary = byte_level()
    vocab = len(vocabulary["tokenizer.ggml.tokens"])
    path = TinyModel(encoding="NVFP4", vocab=vocab, metadata=vocabulary).write(tmp_path / "source.gguf")
    with pytest.raises(UnsupportedError, match="embed_tokens.weight: llama.cpp applies no tensor scale"):
        halve.convert(path, tmp_path / "out", "gguf")


def test_numbers_that_are_none_are_refused(tmp_path):
    config = llama.decoder_config("llama", **WIDE)
    tensors = llama.decoder_weights(config)
    tensors[UP][3, 5] = np.nan
    path = llama.write_decoder(tmp_path / "source", config, tensors)
    with pytest.raises(FormatError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: .* \[3, 5\]"):
        halve.quantize(path, tmp_path / "out", "int4_min_g32", layout="gguf")
    assert not (tmp_path / "out").exists()
    halve.quantize(path, tmp_path / "out", "int4_min_g32", layout="gguf", on_nonfinite="keep")
    checkpoint = opened(tmp_path / "out")
    assert checkpoint.stored(UP)[0] == "F32"
    assert np.isnan(read_array(checkpoint, UP)[3, 5])
    checkpoint.close()


def nvfp4(path: Path, extra) -> GgufCheckpoint:
    return GgufCheckpoint(TinyModel(encoding="NVFP4", extra=extra).write(path / "tiny.gguf"))


def test_a_tensor_scale_that_is_not_there_is_one(tmp_path):
    checkpoint = nvfp4(tmp_path, {})
    stored = LAYOUT.open(checkpoint)[UP]
    assert (checkpoint.scale(UP), checkpoint.input_scale(UP)) == (1.0, None)
    assert LAYOUT.read(checkpoint, stored, 0, 128).tensor_scale == 1.0
    assert stored.scheme.name == "nvfp4a16"
    checkpoint.close()


def test_scales_are_read_and_applied(tmp_path):
    factors = {
        "blk.1.ffn_up.scale": (np.array([0.125], np.float32), "F32"),
        "blk.1.ffn_up.input_scale": (np.array([0.0625], np.float32), "F32"),
    }
    tiny = TinyModel(encoding="NVFP4", extra=factors)
    checkpoint = GgufCheckpoint(tiny.write(tmp_path / "tiny.gguf"))
    stored = LAYOUT.open(checkpoint)[UP]
    assert (stored.scheme.name, LAYOUT.input_scale(checkpoint, stored)) == ("nvfp4", 0.0625)
    assert LAYOUT.read(checkpoint, stored, 0, 512).tensor_scale == 0.125
    expected = (tiny.expected("blk.1.ffn_up.weight") * np.float32(0.125)).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(read_array(checkpoint, UP), expected)
    assert checkpoint.stored(UP) == ("NVFP4", 512 * 256 // 64 * 36 + 8)
    checkpoint.close()


def test_a_scale_of_another_type_of_block_multiplies_it(tmp_path):
    """llama.cpp applies it to every type; as no scheme has it, such a weight is read as plain numbers."""
    for encoding in ("Q8_0", "F32"):
        tiny = TinyModel(encoding=encoding, extra={"blk.1.ffn_up.scale": (np.array([3], np.float32), "F32")})
        checkpoint = GgufCheckpoint(tiny.write(tmp_path / "tiny.gguf"))
        assert UP not in LAYOUT.open(checkpoint)
        values = tiny.expected("blk.1.ffn_up.weight") * np.float32(3)
        expected = values.astype(ml_dtypes.bfloat16) if encoding == "Q8_0" else values
        np.testing.assert_array_equal(read_array(checkpoint, UP), expected)
        checkpoint.close()


@pytest.mark.parametrize(
    ("extra", "error", "says"),
    [
        ({"blk.1.ffn_up.scale": (np.ones(2, np.float32), "F32")}, CheckpointError, r"is F32 of shape \(2,\)"),
        ({"blk.1.ffn_up.scale": (np.ones(1, np.float16), "F16")}, CheckpointError, "is F16"),
        ({"blk.1.ffn_up.input_scale": (np.ones((1, 1), np.float32), "F32")}, CheckpointError, r"shape \(1, 1\)"),
        ({"blk.9.ffn_up.scale": (np.ones(1, np.float32), "F32")}, UnsupportedError, "scales no matrix"),
        ({"blk.1.attn_norm.scale": (np.ones(1, np.float32), "F32")}, UnsupportedError, "scales no matrix"),
        ({"token_embd.scale": (np.ones(1, np.float32), "F32")}, UnsupportedError, "scales no matrix"),
    ],
)
def test_scales_that_make_no_sense(tmp_path, extra, error, says):
    with pytest.raises(error, match=says) as raised:
        nvfp4(tmp_path, extra)
    assert raised.value.hint


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_scales_that_are_no_numbers_are_found_by_verify(plain, tmp_path, value):
    halve.quantize(plain, tmp_path / "out", "nvfp4a16", layout="gguf")
    (tmp_path / "out" / "halve.json").unlink()
    checkpoint = opened(tmp_path / "out")
    begin = checkpoint._sources[UP].scale.offset
    checkpoint.close()
    path = tmp_path / "out" / "model.gguf"
    content = bytearray(path.read_bytes())
    content[begin : begin + 4] = np.float32(value).tobytes()
    path.write_bytes(content)
    (problem,) = halve.verify(tmp_path / "out").problems
    assert problem.where == UP
    assert "tensor scale" in problem.what


def test_a_truncated_file(plain, tmp_path):
    halve.quantize(plain, tmp_path / "out", "mxfp4a16", layout="gguf")
    path = tmp_path / "out" / "model.gguf"
    content = path.read_bytes()
    for size in (0, 3, 100, len(content) // 2, len(content) - 64):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"model\.gguf"):
            open_checkpoint(tmp_path / "out")


def test_a_changed_byte_is_found_by_verify(plain, tmp_path):
    halve.quantize(plain, tmp_path / "out", "int8_g32", layout="gguf")
    path = tmp_path / "out" / "model.gguf"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    assert "model.gguf" in {problem.where for problem in halve.verify(tmp_path / "out").problems}


def test_a_folder_with_two_files_is_none_of_them(plain, tmp_path):
    halve.quantize(plain, tmp_path / "out", "int8_g32", layout="gguf")
    (tmp_path / "out" / "other.gguf").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"config\.json is missing") as raised:
        open_checkpoint(tmp_path / "out")
    assert ".gguf file itself" in raised.value.hint


def test_there_is_no_config_beside_it():
    contents = Contents({"model_type": "llama"}, {"tokenizer.json": b"", "LICENSE": b"x"}, {}, [])
    assert LAYOUT.config(contents) == {}
    assert LAYOUT.files(contents) == {"LICENSE": b"x"}
