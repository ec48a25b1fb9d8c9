"""ModelOpt's own exports, the golden files: read, written again byte for byte, and refused where damaged."""

import hashlib
import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import halve
from halve import layouts, schemes
from halve.checkpoint.base import TensorInfo
from halve.errors import CheckpointError, FormatError, UnsupportedError
from halve.layouts.base import Contents
from halve.schemes import Block
from halve.schemes.quantize import dequantize, quantize
from tiny import folders, llama

GOLDEN = Path(__file__).parents[1] / "golden" / "layouts" / "modelopt"
DOWN, QUERY = "model.layers.0.mlp.down_proj", "model.layers.0.self_attn.q_proj"
LAYOUT = layouts.get("modelopt")
SCHEMES = {
    "NVFP4": "nvfp4",
    "W4A16_NVFP4": "nvfp4a16",
    "FP8": "",  # one scale a tensor is not in the table
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8_dynamic",
    "FP8_PB_WO": "fp8_block",
    "MXFP8": "mxfp8",
    "MXFP4": "mxfp4a16",
    "MIXED_PRECISION": "",
}
EXPORTS = list(SCHEMES)
WRITTEN = [algo for algo in EXPORTS if algo != "MXFP4"]
READ_ONLY = Block(element="fp4_e2m1", scale="e8m0", block_size=32)


def golden(algo):
    return json.loads((GOLDEN / f"{algo}.json").read_text())


def source(module=DOWN):
    weight = golden("source")[f"{module}.weight"]
    return np.frombuffer(bytes.fromhex(weight["hex"]), ml_dtypes.bfloat16).reshape(weight["shape"])


def opened(tmp_path, algo, change=None):
    """The export as a folder; ``change`` is applied to its tensors."""
    content = golden(algo)
    tensors = folders.tensors(content["tensors"])
    if change:
        change(tensors)
    config = {"quantization_config": content["quantization_config"]}
    return folders.write(tmp_path / algo, config, tensors)


def digest(checkpoint, stored):
    """Hash of the values in BF16, zeros being positive."""
    values = dequantize(LAYOUT.read(checkpoint, stored, 0, stored.shape[0])) + np.float32(0)
    return hashlib.sha256(values.astype(ml_dtypes.bfloat16).tobytes()).hexdigest()


def written(weights):
    """Config files for these weights."""
    quantized = {name.removesuffix(".weight"): stored.scheme for name, stored in weights.items()}
    files = LAYOUT.files(Contents({"torch_dtype": "float32"}, {}, quantized, ["lm_head"]))
    return {name: json.loads(content) for name, content in files.items()}


@pytest.mark.parametrize("algo", EXPORTS)
def test_exports_have_the_values_that_modelopt_gives_them(tmp_path, algo):
    checkpoint = opened(tmp_path, algo)
    assert layouts.detect(checkpoint) is LAYOUT
    found = LAYOUT.open(checkpoint)
    expected = golden(algo)["sha256"]
    assert {name.removesuffix(".weight") for name in found} == set(expected)
    assert found[f"{DOWN}.weight"].scheme.name == SCHEMES[algo]
    for name, stored in found.items():
        assert digest(checkpoint, stored) == expected[name.removesuffix(".weight")]


@pytest.mark.parametrize("algo", WRITTEN)
def test_what_is_read_is_written_byte_for_byte(tmp_path, algo):
    checkpoint = opened(tmp_path, algo)
    again = {}
    for name, stored in LAYOUT.open(checkpoint).items():
        q = LAYOUT.read(checkpoint, stored, 0, stored.shape[0])
        scale = LAYOUT.input_scale(checkpoint, stored)
        assert (scale is None) == (algo not in ("NVFP4", "FP8", "MIXED_PRECISION"))
        assert not LAYOUT.supports(stored.scheme).refused
        weight = TensorInfo(name, "BF16", stored.shape)
        again |= folders.pieces(LAYOUT, weight, stored.scheme, [(0, q)], input_scale=scale)
    expected = folders.tensors(golden(algo)["tensors"])
    assert {n: (d, list(s), b) for n, (d, s, b) in again.items()} == expected


@pytest.mark.parametrize("algo", WRITTEN)
def test_configs_are_modelopts(tmp_path, algo):
    content = golden(algo)
    files = written(LAYOUT.open(opened(tmp_path, algo)))
    expected = [content["hf_quant_config"], content["quantization_config"]]
    for said, place in ((expected[0]["quantization"], "exclude_modules"), (expected[1], "ignore")):
        if said.get(place):
            said[place].remove("model.embed_tokens")  # no linear module: nobody expects codes of it
    if algo == "MIXED_PRECISION":  # where the golden tensors are two modules of seven
        for layers in (expected[0]["quantization"]["quantized_layers"], expected[1]["quantized_layers"]):
            for name in layers.keys() - {DOWN, QUERY}:
                del layers[name]
        for group in expected[1]["config_groups"].values():
            group["targets"] = [name for name in group["targets"] if name in (DOWN, QUERY)]
        for groups in (expected[1], files["config.json"]["quantization_config"]):
            groups["config_groups"] = sorted(groups["config_groups"].values(), key=json.dumps)
    assert files["hf_quant_config.json"] == expected[0]
    assert files["config.json"]["quantization_config"] == expected[1]


def test_mxfp8_is_said_to_be_bf16_and_others_keep_their_type(tmp_path):
    for algo, dtype in (("MXFP8", "bfloat16"), ("NVFP4", "float32")):
        assert written(LAYOUT.open(opened(tmp_path, algo)))["config.json"]["torch_dtype"] == dtype


@pytest.mark.parametrize(("algo", "different"), [("FP8_PER_CHANNEL_PER_TOKEN", 0), ("FP8_PB_WO", 0), ("MXFP8", 0)])
def test_rounding_gives_modelopts_codes(tmp_path, algo, different):
    checkpoint = opened(tmp_path, algo)
    stored = LAYOUT.open(checkpoint)[f"{DOWN}.weight"]
    theirs = LAYOUT.read(checkpoint, stored, 0, stored.shape[0])
    ours = quantize(theirs.block, source())
    np.testing.assert_array_equal(ours.scales, theirs.scales)
    assert (ours.codes != theirs.codes).sum() == different


def test_nvfp4_rounds_as_modelopt_under_its_tensor_scale(tmp_path):
    """But for the sign of zeros, and ties: ModelOpt multiplies the two scales, halve divides by a reciprocal."""
    checkpoint = opened(tmp_path, "NVFP4")
    stored = LAYOUT.open(checkpoint)[f"{DOWN}.weight"]
    theirs = LAYOUT.read(checkpoint, stored, 0, stored.shape[0])
    ours = quantize(theirs.block, source(), tensor_scale=theirs.tensor_scale)
    np.testing.assert_array_equal(ours.scales, theirs.scales)
    ours_codes, their_codes = (np.where(q.codes == 8, 0, q.codes) for q in (ours, theirs))
    assert (ours_codes != their_codes).mean() < 1e-3
    own = quantize(theirs.block, source()).tensor_scale
    assert own is not None
    assert abs(own / theirs.tensor_scale - 1) < 2**-22  # ours survives 1/x, theirs need not


def test_bands_join(tmp_path):
    """Every algorithm in bands of 128 rows: per-tensor numbers come once."""
    w = np.random.default_rng(0).normal(size=(300, 256)).astype(ml_dtypes.bfloat16)
    weight = TensorInfo("a.weight", "BF16", w.shape)
    for algo in WRITTEN[:-1]:
        stored = LAYOUT.open(opened(tmp_path, algo))[f"{DOWN}.weight"]
        q = quantize(stored.block, w)
        bands = [(a, _rows(q, a, b)) for a, b in ((0, 128), (128, 256), (256, 300))]
        static = 0.25 if stored.scheme.activation_static else None
        tensors = folders.pieces(LAYOUT, weight, stored.scheme, bands, input_scale=static)
        config = LAYOUT.config(Contents({}, {}, {"a": stored.scheme}, []))
        checkpoint = folders.write(tmp_path / f"{algo}-bands", config, tensors)
        (again,) = LAYOUT.open(checkpoint).values()
        assert LAYOUT.input_scale(checkpoint, again) == static
        whole = LAYOUT.read(checkpoint, again, 0, 300)
        np.testing.assert_array_equal(dequantize(whole), dequantize(q))
        last = LAYOUT.read(checkpoint, again, 256, 300)
        np.testing.assert_array_equal(dequantize(last), dequantize(q)[256:])


def _rows(q, start, stop):
    height = q.block.tile(*q.shape)[0]
    return replace(q, codes=q.codes[start:stop], scales=q.scales[start // height : -(-stop // height)])


@pytest.mark.parametrize(
    ("scheme", "why"),
    [("mxfp4", "vLLM"), ("mxfp4a16", "vLLM"), ("fp8", "vLLM"), ("w4a16", "vLLM"), ("fp8_static", "vLLM"), ("bf16", "")],
)
def test_what_vllm_refuses_is_not_written(scheme, why):
    refused = LAYOUT.supports(schemes.get(scheme)).refused
    assert refused
    assert why in refused
    assert "FP8_PER_CHANNEL_PER_TOKEN" in refused
    assert "MXFP4" not in refused


def test_partial_columns_of_tiles_are_refused():
    with pytest.raises(FormatError, match="192 columns"):
        LAYOUT.entries(TensorInfo("a.weight", "BF16", (128, 192)), LAYOUT.bind(schemes.get("fp8_block"), "BF16"))


def test_a_folder_with_hf_quant_config_alone_is_read(tmp_path):
    """ModelOpt before 0.31 wrote nothing into config.json."""
    content = golden("W4A16_NVFP4")
    others = {"hf_quant_config.json": content["hf_quant_config"]}
    checkpoint = folders.write(tmp_path, {}, folders.tensors(content["tensors"]), others=others)
    assert layouts.detect(checkpoint) is LAYOUT
    assert [s.scheme.name for s in LAYOUT.open(checkpoint).values()] == ["nvfp4a16"]


def test_the_envelope_within_config_json_is_read(tmp_path):
    content = golden("NVFP4")
    config = {"quantization_config": content["hf_quant_config"] | {"quant_method": "modelopt"}}
    checkpoint = folders.write(tmp_path, config, folders.tensors(content["tensors"]))
    assert [s.scheme.name for s in LAYOUT.open(checkpoint).values()] == ["nvfp4"]


def test_nvfp4_without_input_activations_means_weights_only(tmp_path):
    """As vLLM takes it."""
    content = golden("W4A16_NVFP4")
    config = content["quantization_config"] | {"quant_algo": "NVFP4"}
    checkpoint = folders.write(tmp_path, {"quantization_config": config}, folders.tensors(content["tensors"]))
    assert [s.scheme.name for s in LAYOUT.open(checkpoint).values()] == ["nvfp4a16"]


def test_a_needless_input_scale_belongs_to_the_weight(tmp_path):
    """Older W4A16_NVFP4 exports have one: it must not turn up as a tensor of its own."""
    checkpoint = opened(tmp_path, "W4A16_NVFP4", lambda t: t.update({f"{DOWN}.input_scale": ("F32", [], bytes(4))}))
    (stored,) = LAYOUT.open(checkpoint).values()
    assert set(stored.entries) == set(checkpoint.tensors)
    assert LAYOUT.input_scale(checkpoint, stored) is None


@pytest.mark.parametrize("algo", EXPORTS)
def test_a_missing_tensor_is_named(tmp_path, algo):
    for name in folders.tensors(golden(algo)["tensors"]):
        checkpoint = opened(tmp_path, algo, lambda t, name=name: t.pop(name))
        with pytest.raises(CheckpointError, match=name.rpartition(".")[0]):
            LAYOUT.open(checkpoint)


@pytest.mark.parametrize(
    ("claimed", "held"),
    [
        pair
        for pair in permutations(EXPORTS, 2)
        # NVFP4 has all that W4A16_NVFP4 needs, and down_proj of the mixed export is FP8
        if pair not in {("W4A16_NVFP4", "NVFP4"), ("MIXED_PRECISION", "FP8")}
    ],
)
def test_another_algorithm_than_the_tensors_is_refused(tmp_path, claimed, held):
    config = {"quantization_config": golden(claimed)["quantization_config"]}
    checkpoint = folders.write(tmp_path, config, folders.tensors(golden(held)["tensors"]))
    with pytest.raises(CheckpointError, match=str(tmp_path)) as raised:
        LAYOUT.open(checkpoint)
    assert raised.value.hint


def _set(name, value):
    return lambda tensors: tensors.update({f"{DOWN}.{name}": value})


@pytest.mark.parametrize(
    ("algo", "change", "what"),
    [
        ("NVFP4", _set("weight", ("U8", [8192], bytes(8192))), "2 columns"),
        ("NVFP4", _set("weight", ("U8", [32, 63], bytes(2016))), "126 columns"),
        ("NVFP4", _set("weight_scale", ("F8_E4M3", [8, 32], bytes(256))), r"\[8, 32\]"),
        ("NVFP4", _set("weight_scale_2", ("F32", [2], bytes(8))), "one number"),
        ("NVFP4", _set("input_scale", ("BF16", [], bytes(2))), "BF16"),
        ("NVFP4", _set("pre_quant_scale", ("BF16", [128], bytes(256))), "AWQ"),
        ("FP8", _set("weight_scale", ("F32", [3], bytes(12))), r"\[3\]"),
        ("FP8_PB_WO", _set("weight_scale", ("F32", [2, 1, 1, 1], bytes(8))), r"\[2, 1, 1, 1\]"),
        ("FP8_PB_WO", _set("weight", ("F8_E4M3", [32, 32, 8], bytes(8192))), r"\[32, 32, 8\]"),
        ("MXFP8", _set("weight_scale", ("U8", [32, 3], bytes(96))), r"\[32, 3\]"),
    ],
)
def test_contradictions_are_named(tmp_path, algo, change, what):
    with pytest.raises(CheckpointError, match=what) as raised:
        LAYOUT.open(opened(tmp_path, algo, change))
    assert DOWN in str(raised.value)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"quant_algo": "W4A8_AWQ"}, "W4A8_AWQ"),
        ({"quant_algo": None}, "None"),
        ({"quant_algo": ["NVFP4"]}, "NVFP4"),
        ({}, "None"),
        ({"quant_algo": "MIXED_PRECISION"}, "quantized_layers"),
        ({"quant_algo": "MIXED_PRECISION", "quantized_layers": {DOWN: "NVFP4"}}, "quantized_layers"),
        ({"quant_algo": "MIXED_PRECISION", "quantized_layers": {DOWN: {"quant_algo": 4}}}, "4"),
    ],
)
def test_a_config_that_says_nothing_useful_is_an_error(tmp_path, config, what):
    found = {"quantization_config": config | {"quant_method": "modelopt"}}
    checkpoint = folders.write(tmp_path, found, folders.tensors(golden("NVFP4")["tensors"]))
    with pytest.raises(CheckpointError, match=what):
        LAYOUT.open(checkpoint)


def test_squeezed_shapes_are_read(tmp_path):
    """[1] for [], two dimensions for four, as vLLM takes them, too."""
    for algo, shape in (("FP8", [1]), ("FP8", [1, 1]), ("FP8_PB_WO", [1, 2])):

        def change(tensors, shape=shape):
            dtype, _, data = tensors[f"{DOWN}.weight_scale"]
            tensors[f"{DOWN}.weight_scale"] = dtype, shape, data

        checkpoint = opened(tmp_path, algo, change)
        (stored,) = LAYOUT.open(checkpoint).values()
        assert digest(checkpoint, stored) == golden(algo)["sha256"][DOWN]


def test_mxfp4_that_vllm_refuses_becomes_what_it_reads(tmp_path):
    """A ModelOpt MXFP4 export, which no engine takes, in compressed-tensors with the codes it has."""
    checkpoint = opened(tmp_path, "MXFP4")
    (stored,) = LAYOUT.open(checkpoint).values()
    assert stored.block == READ_ONLY
    result = halve.convert(tmp_path / "MXFP4", tmp_path / "out", "compressed-tensors")
    assert (result.scheme, result.kept_codes, result.losses) == ("mxfp4a16", 1, ())
    with pytest.raises(UnsupportedError, match="vLLM"):
        halve.convert(tmp_path / "out", tmp_path / "back", "modelopt")


def test_an_fp8_cache_is_said_in_both_configs():
    files = LAYOUT.files(Contents({}, {}, {"a": schemes.get("nvfp4a16")}, [], kv=True))
    said = json.loads(files["hf_quant_config.json"])["quantization"], json.loads(files["config.json"])
    assert said[0]["kv_cache_quant_algo"] == "FP8"
    assert said[1]["quantization_config"]["kv_cache_scheme"] == {"dynamic": False, "num_bits": 8, "type": "float"}
    keys, values = LAYOUT.kv_entries("model.layers.0.self_attn")
    assert (keys.name, keys.shape) == ("model.layers.0.self_attn.k_proj.k_scale", ())
    assert values.name == "model.layers.0.self_attn.v_proj.v_scale"


def test_two_algorithms_through_the_whole_job(tmp_path):
    source = llama.write(tmp_path / "source")
    halve.quantize(source, tmp_path / "q", "nvfp4a16", layout="modelopt", overrides=[("re:.*down_proj", "fp8_dynamic")])
    said = json.loads((tmp_path / "q" / "hf_quant_config.json").read_text())["quantization"]
    assert said["quant_algo"] == "MIXED_PRECISION"
    assert {layer["quant_algo"] for layer in said["quantized_layers"].values()} == {
        "W4A16_NVFP4",
        "FP8_PER_CHANNEL_PER_TOKEN",
    }
    result = halve.verify(tmp_path / "q", against=source)
    assert result.ok, result.problems


def test_layers_that_only_one_of_the_configs_lists(tmp_path):
    folder = tmp_path / "q"
    source = llama.write(tmp_path / "source")
    halve.quantize(source, folder, "nvfp4a16", layout="modelopt", overrides=[("re:.*down_proj", "fp8_dynamic")])
    before = {tensor.name: tensor.scheme for tensor in halve.inspect(folder).tensors}
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]["quantized_layers"]
    (folder / "config.json").write_text(json.dumps(config))
    assert {tensor.name: tensor.scheme for tensor in halve.inspect(folder).tensors} == before
    (folder / "hf_quant_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"neither in config\.json nor in hf_quant_config\.json") as raised:
        halve.inspect(folder)
    assert "fetch the hf_quant_config.json" in raised.value.hint
