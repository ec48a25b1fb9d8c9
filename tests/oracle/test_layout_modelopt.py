"""ModelOpt on this machine: what it exports halve reads, what halve writes has the names, types and shapes it has."""

import copy
import json
import runpy
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import halve
from halve import layouts
from halve.checkpoint.hf import HfCheckpoint
from halve.layouts.base import Contents, kv_scales
from halve.schemes import get
from halve.schemes.quantize import dequantize

GOLDEN = Path(__file__).parents[1] / "golden" / "layouts" / "modelopt"
SAME = {
    "W4A16_NVFP4": "nvfp4a16",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8_dynamic",
    "FP8_PB_WO": "fp8_block",
    "MXFP8": "mxfp8",
}

pytestmark = pytest.mark.filterwarnings("ignore")  # ModelOpt's and torch's own


@pytest.fixture(scope="module")
def generate():
    pytest.importorskip("modelopt", reason='nox -s "oracles(modelopt)" installs it')
    return runpy.run_path(str(GOLDEN / "generate.py"))


@pytest.fixture(scope="module")
def exports(generate, tmp_path_factory):
    """ModelOpt's export of a Llama with two layers of whole and partial tiles, in every algorithm."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("modelopt")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=256,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=64,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / "source")
    for algo, settings in [*generate["CONFIGS"].items(), ("MIXED_PRECISION", generate["mixed"]())]:
        generate["export"](folder / "source", folder / algo, settings)
    return folder


ALGORITHMS = ["NVFP4", "W4A16_NVFP4", "FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "MXFP8", "MXFP4"]


@pytest.mark.parametrize("algo", [*ALGORITHMS, "MIXED_PRECISION"])
def test_values_are_modelopts(generate, exports, algo):
    from safetensors.torch import load_file

    checkpoint = HfCheckpoint(exports / algo)
    layout = layouts.detect(checkpoint)
    tensors = load_file(exports / algo / "model.safetensors")
    found = layout.open(checkpoint)
    assert len(found) == 14
    for name, stored in found.items():
        ours = dequantize(layout.read(checkpoint, stored, 0, stored.shape[0])).astype(ml_dtypes.bfloat16)
        theirs = generate["dequantized"](name.removesuffix(".weight"), tensors).float().numpy()
        np.testing.assert_array_equal(ours.astype(np.float32), theirs, err_msg=name)
        scale = layout.input_scale(checkpoint, stored)
        key = f"{name.removesuffix('.weight')}.input_scale"
        assert scale == (float(tensors[key]) if key in tensors else None)


@pytest.mark.parametrize("algo", SAME)
def test_names_types_and_shapes_are_modelopts(exports, tmp_path, algo):
    """ModelOpt drops the dimensions of a single scale; vLLM asks for them."""
    halve.quantize(exports / "source", tmp_path / "ours", SAME[algo], layout="modelopt")
    ours, theirs = (HfCheckpoint(path).tensors for path in (tmp_path / "ours", exports / algo))
    single = (1, 1, 1, 1) if algo == "FP8_PB_WO" else ()
    expected = {name: (info.dtype, info.shape or single) for name, info in theirs.items()}
    assert {name: (info.dtype, info.shape) for name, info in ours.items()} == expected
    for file in ("config.json", "hf_quant_config.json"):
        written, expected = (json.loads((path / file).read_text()) for path in (tmp_path / "ours", exports / algo))
        part, place = (
            ("quantization_config", "ignore") if file == "config.json" else ("quantization", "exclude_modules")
        )
        expected[part][place].remove("model.embed_tokens")
        assert written[part] == expected[part]


@pytest.mark.parametrize(("algo", "different"), [(algo, 5e-3 if "NVFP4" in algo else 0) for algo in SAME])
def test_codes_are_modelopts(exports, tmp_path, algo, different):
    """Both round to nearest. NVFP4 differs in ties: ModelOpt multiplies scales, halve divides by a reciprocal."""
    halve.quantize(exports / "source", tmp_path / "ours", SAME[algo], layout="modelopt")
    layout = layouts.get("modelopt")
    checkpoints = [HfCheckpoint(path) for path in (tmp_path / "ours", exports / algo)]
    found = [layout.open(checkpoint) for checkpoint in checkpoints]
    for name in found[0]:
        ours, theirs = (
            dequantize(layout.read(checkpoint, weights[name], 0, weights[name].shape[0])).astype(ml_dtypes.bfloat16)
            for checkpoint, weights in zip(checkpoints, found, strict=True)
        )
        assert (ours != theirs).mean() <= different, name


def test_scales_of_an_fp8_cache_are_modelopts(generate, exports):
    import modelopt.torch.quantization as mtq

    settings = copy.deepcopy(mtq.W4A16_NVFP4_CFG)
    settings["quant_cfg"] += mtq.FP8_KV_CFG["quant_cfg"]
    generate["export"](exports / "source", exports / "kv", settings)
    checkpoint, layout = HfCheckpoint(exports / "kv"), layouts.get("modelopt")
    scales = kv_scales(checkpoint)
    assert set(scales) == {f"model.layers.{i}.self_attn" for i in range(2)}
    for attention, pair in scales.items():
        assert all(0 < scale < 1 for scale in pair)
        for entry in layout.kv_entries(attention):
            assert checkpoint.tensors[entry.name] == entry
    files = layout.files(Contents({}, {}, {"a": get("nvfp4a16")}, ["lm_head", "model.embed_tokens"], kv=True))
    for name, part in (("config.json", "quantization_config"), ("hf_quant_config.json", "quantization")):
        assert json.loads(files[name])[part] == json.loads((exports / "kv" / name).read_text())[part]
