"""gpt-oss's packed experts: read one by one, written piece by piece into one tensor, and refused where damaged."""

import hashlib
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import halve
from halve import layouts, schemes
from halve.checkpoint.base import TensorInfo, read_array
from halve.checkpoint.hf import HfCheckpoint
from halve.errors import CheckpointError, FormatError, HalveError, UnsupportedError
from halve.layouts.base import Contents
from halve.schemes.quantize import dequantize, quantize
from tiny import folders

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "layouts" / "gpt-oss-mxfp4" / "transformers.json").read_text("utf-8")
)
LAYOUT = layouts.get("gpt-oss-mxfp4")
SCHEME = schemes.get("mxfp4a16")
EXPERTS = "model.layers.0.mlp.experts"
CONFIG = {"model_type": "gpt_oss", "num_local_experts": 3, "quantization_config": {"quant_method": "mxfp4"}}
COUNT, HIDDEN, INNER = 3, 64, 32
KEEP = ("re:.*self_attn",)


def opened(folder, change=None, **config):
    """The golden experts as a folder; ``change`` is applied to their tensors."""
    tensors = folders.tensors(GOLDEN["tensors"])
    if change:
        change(tensors)
    return folders.write(folder, CONFIG | config, tensors)


def source(folder, *, layers=2, without=()):
    """A 16-bit gpt-oss with a tensor an expert."""
    rng = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (40, HIDDEN), "lm_head.weight": (40, HIDDEN)}
    for i in range(layers):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            f"{layer}.mlp.router.weight": (COUNT, HIDDEN),
            f"{layer}.mlp.experts.gate_up_proj_bias": (COUNT, 2 * INNER),
        }
        for e in range(COUNT):
            shapes[f"{layer}.mlp.experts.{e}.gate_up_proj.weight"] = (2 * INNER, HIDDEN)
            shapes[f"{layer}.mlp.experts.{e}.down_proj.weight"] = (HIDDEN, INNER)
    tensors = {
        name: ("BF16", shape, rng.normal(size=shape).astype(ml_dtypes.bfloat16).tobytes())
        for name, shape in shapes.items()
        if name not in without
    }
    config = {"model_type": "gpt_oss", "num_local_experts": COUNT, "torch_dtype": "bfloat16"}
    folders.write(folder, config, tensors, others={"tokenizer.json": {}})
    return folder


def test_values_are_transformers(tmp_path):
    checkpoint = opened(tmp_path)
    assert layouts.detect(checkpoint) is LAYOUT
    found = LAYOUT.open(checkpoint)
    assert len(found) == 2 * COUNT
    assert {stored.scheme for stored in found.values()} == {SCHEME}
    for projection, shape in (("gate_up_proj", (16, 64)), ("down_proj", (64, 32))):
        weights = [found[f"{EXPERTS}.{e}.{projection}.weight"] for e in range(COUNT)]
        assert {stored.shape for stored in weights} == {shape}
        values = np.stack([dequantize(LAYOUT.read(checkpoint, stored, 0, shape[0])).T for stored in weights])
        bits = (values + np.float32(0)).astype(ml_dtypes.bfloat16).tobytes()
        assert hashlib.sha256(bits).hexdigest() == GOLDEN["sha256"][projection]


def test_what_is_read_is_written_byte_for_byte(tmp_path):
    checkpoint = opened(tmp_path)
    pieces = {}
    for name, stored in LAYOUT.open(checkpoint).items():
        q = LAYOUT.read(checkpoint, stored, 0, stored.shape[0])
        pieces |= folders.pieces(LAYOUT, TensorInfo(name, "BF16", stored.shape), stored.scheme, [(0, q)])
    for name, tensor in GOLDEN["tensors"].items():
        parent, _, entry = name.rpartition(".")
        assert b"".join(pieces[f"{parent}.{e}.{entry}"][2] for e in range(COUNT)).hex() == tensor["hex"]


def test_bands_are_rows_of_one_expert(tmp_path):
    w = np.random.default_rng(1).normal(size=(300, 64)).astype(np.float32)
    q = quantize(SCHEME.weight, w)
    packed = LAYOUT.write(TensorInfo(f"{EXPERTS}.0.down_proj.weight", "F32", w.shape), SCHEME, q, 0)
    two = {
        f"{EXPERTS}.down_proj_{part}": (
            "U8",
            (2, *packed[f"{EXPERTS}.0.down_proj_{part}"].shape),
            bytes(packed[f"{EXPERTS}.0.down_proj_{part}"].nbytes) + packed[f"{EXPERTS}.0.down_proj_{part}"].tobytes(),
        )
        for part in ("blocks", "scales")
    }
    checkpoint = folders.write(tmp_path, CONFIG | {"num_local_experts": 2}, two)
    stored = LAYOUT.open(checkpoint)[f"{EXPERTS}.1.down_proj.weight"]
    for start, stop in ((0, 128), (128, 256), (256, 300)):
        band = LAYOUT.read(checkpoint, stored, start, stop)
        np.testing.assert_array_equal(dequantize(band), dequantize(q)[start:stop])


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 6_000, 1])
def test_the_whole_job_writes_one_tensor_for_all_experts(tmp_path, shard_bytes):
    """However small the shards, threads write the pieces of one tensor into one file."""
    folder = source(tmp_path / "source")
    out = tmp_path / "out"
    result = halve.quantize(folder, out, "mxfp4a16", layout=LAYOUT.name, ignore=KEEP, shard_bytes=shard_bytes)
    assert result.bytes == sum(file.stat().st_size for file in out.glob("*.safetensors"))
    assert result.plan.file_bytes(shard_bytes) == result.bytes
    assert halve.verify(out).ok
    checkpoint, plain = HfCheckpoint(out), HfCheckpoint(folder)
    assert len(checkpoint.files) == {5_000_000_000: 1, 6_000: 6, 1: 12}[shard_bytes]
    for i in range(2):
        experts = f"model.layers.{i}.mlp.experts"
        assert checkpoint.tensors[f"{experts}.gate_up_proj_blocks"].shape == (COUNT, 2 * INNER, HIDDEN // 32, 16)
        assert checkpoint.tensors[f"{experts}.down_proj_scales"].shape == (COUNT, HIDDEN, INNER // 32)
        assert checkpoint.tensors[f"{experts}.gate_up_proj_bias"].dtype == "BF16"
    found = LAYOUT.open(checkpoint)
    assert len(found) == 4 * COUNT
    for name, stored in found.items():
        expected = quantize(SCHEME.weight, read_array(plain, name))
        q = LAYOUT.read(checkpoint, stored, 0, stored.shape[0])
        np.testing.assert_array_equal(q.codes, expected.codes, err_msg=name)
        np.testing.assert_array_equal(q.scales, expected.scales, err_msg=name)


def test_the_config_is_gpt_oss_own():
    config = LAYOUT.config(Contents({}, {}, {}, []))
    assert config["quantization_config"] == {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
    }


@pytest.mark.parametrize("scheme", ["mxfp4", "mxfp8a16", "nvfp4a16", "fp8_dynamic", "bf16"])
def test_other_schemes_are_refused(scheme):
    assert "mxfp4a16" in LAYOUT.supports(schemes.get(scheme)).refused


def test_what_is_no_expert_stays_in_16_bits(tmp_path):
    with pytest.raises(FormatError, match="no expert"):
        LAYOUT.entries(TensorInfo("model.layers.0.self_attn.q_proj.weight", "BF16", (64, 64)), SCHEME)
    result = halve.quantize(source(tmp_path / "source"), tmp_path / "out", "mxfp4a16", layout=LAYOUT.name)
    assert {
        t.why for t in result.plan.tensors if "self_attn" in t.source.name and t.source.name.endswith("weight")
    } == {"no expert"}


def test_shared_entries_are_converted_whole(tmp_path):
    halve.quantize(source(tmp_path / "source"), tmp_path / "a", "mxfp4a16", layout=LAYOUT.name)
    halve.convert(tmp_path / "a", tmp_path / "b", "quark")
    back = halve.convert(tmp_path / "b", tmp_path / "c", LAYOUT.name)
    assert back.kept_codes == len(LAYOUT.open(HfCheckpoint(tmp_path / "a")))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ac"]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    "ignore",
    [
        "model.layers.0.mlp.experts.1.down_proj",
        "model.layers.1.mlp.experts.2.gate_up_proj",
        "re:.*layers.0.*experts.0",
    ],
)
def test_some_experts_of_a_layer_are_refused_before_anything_is_written(tmp_path, ignore):
    with pytest.raises(UnsupportedError, match="all 3 experts") as raised:
        halve.quantize(
            source(tmp_path / "source"),
            tmp_path / "out",
            "mxfp4a16",
            layout=LAYOUT.name,
            ignore=(*KEEP, ignore),
        )
    assert "--ignore" in raised.value.hint
    assert not (tmp_path / "out").exists()


def test_a_layer_may_stay_as_it_is(tmp_path):
    ignore = (*KEEP, "re:.*layers.1.mlp.experts")
    halve.quantize(source(tmp_path / "source"), tmp_path / "out", "mxfp4a16", layout=LAYOUT.name, ignore=ignore)
    assert len(LAYOUT.open(HfCheckpoint(tmp_path / "out"))) == 2 * COUNT


def test_fewer_experts_than_the_config_says_are_refused(tmp_path):
    missing = [f"model.layers.{i}.mlp.experts.2.{p}.weight" for i in range(2) for p in ("gate_up_proj", "down_proj")]
    folder = source(tmp_path / "source", without=missing)
    with pytest.raises(UnsupportedError, match="all 3 experts"):
        halve.quantize(folder, tmp_path / "out", "mxfp4a16", layout=LAYOUT.name, ignore=KEEP)


def test_other_architectures_are_refused(tmp_path):
    folder = source(tmp_path / "source")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "mixtral"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(HalveError, match="mixtral"):
        halve.quantize(folder, tmp_path / "out", "mxfp4a16", layout=LAYOUT.name, ignore=KEEP)


@pytest.mark.parametrize("name", GOLDEN["tensors"])
def test_a_missing_tensor_is_named(tmp_path, name):
    with pytest.raises(CheckpointError, match=name):
        LAYOUT.open(opened(tmp_path, lambda t: t.pop(name)))


def _set(name, value):
    return lambda tensors: tensors.update({f"{EXPERTS}.{name}": value})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_set("gate_up_proj_blocks", ("BF16", [3, 16, 2, 8], bytes(1536))), "BF16"),
        (_set("gate_up_proj_blocks", ("U8", [3, 16, 32], bytes(1536))), r"\[3, 16, 32\]"),
        (_set("gate_up_proj_blocks", ("U8", [3, 32, 2, 8], bytes(1536))), r"\[3, 32, 2, 8\]"),
        (_set("gate_up_proj_blocks", ("U8", [10**12, 0, 2, 16], b"")), r"\[1000000000000, 0, 2, 16\]"),
        (_set("gate_up_proj_scales", ("U8", [3, 8, 4], bytes(96))), r"\[3, 8, 4\]"),
        (_set("down_proj_scales", ("F8_E4M3", [3, 64, 1], bytes(192))), "F8_E4M3"),
    ],
)
def test_contradictions_are_named(tmp_path, change, what):
    with pytest.raises(CheckpointError, match=what) as raised:
        LAYOUT.open(opened(tmp_path, change))
    assert EXPERTS in str(raised.value)


def test_another_number_of_experts_than_the_config_says_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="config.json says 32"):
        LAYOUT.open(opened(tmp_path, num_local_experts=32))


def test_mxfp4_in_another_layout_is_an_error(tmp_path):
    tensors = {"model.layers.0.mlp.up_proj.weight": ("U8", [32, 16], bytes(512))}
    with pytest.raises(CheckpointError, match="no tensor is called"):
        LAYOUT.open(folders.write(tmp_path, CONFIG, tensors))


def test_a_file_cut_short_is_an_error(tmp_path):
    opened(tmp_path).close()
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        HfCheckpoint(tmp_path)
