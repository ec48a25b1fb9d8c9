"""Memory: 0 bytes off for what halve writes in every layout, and never more with fewer bits."""

import ml_dtypes
import numpy as np
import pytest

from halve import layouts, quantize, schemes
from halve.checkpoint.source import open_checkpoint
from halve.models import catalog
from halve.models.config_shape import shape_of
from halve.pipeline.plan import check_model, plan
from halve.plan.memory import (
    cache_bytes,
    device_weights,
    memory,
    planned_bytes,
    role_bytes,
    stored_bytes,
    weight_bytes,
)
from halve.plan.parallel import Parallel
from halve.plan.precision import Precision
from halve.schemes.recipe import Recipe
from tiny import folders, llama

LLAMA_8B = catalog.find("Llama-3.1-8B")
HELD = [
    (layout.name, scheme.name)
    for layout in layouts.layouts().values()
    for scheme in schemes.SCHEMES.values()
    if not layout.supports(scheme).refused and layout.name != "onnx-qdq"
]  # graphs have no tensors of a model's names to plan with
WIDE = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "torch_dtype": "bfloat16"}
EXPERTS, HIDDEN, INNER = 3, 64, 32


def write_gpt_oss(folder):
    """A 16-bit gpt-oss with a tensor an expert."""
    layer = "model.layers.0"
    shapes = {
        "model.embed_tokens.weight": (40, HIDDEN),
        f"{layer}.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
        f"{layer}.mlp.router.weight": (EXPERTS, HIDDEN),
        f"{layer}.mlp.experts.gate_up_proj_bias": (EXPERTS, 2 * INNER),
    }
    for e in range(EXPERTS):
        shapes[f"{layer}.mlp.experts.{e}.gate_up_proj.weight"] = (2 * INNER, HIDDEN)
        shapes[f"{layer}.mlp.experts.{e}.down_proj.weight"] = (HIDDEN, INNER)
    rng = np.random.default_rng(0)
    tensors = {
        name: ("BF16", shape, rng.normal(size=shape).astype(ml_dtypes.bfloat16).tobytes())
        for name, shape in shapes.items()
    }
    config = {"model_type": "gpt_oss", "num_local_experts": EXPERTS, "torch_dtype": "bfloat16"}
    folders.write(folder, config, tensors, others={"tokenizer.json": {}})


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A source for each kind of layout: for gpt-oss, for GGUF (which wants a tokenizer that it knows), for the rest."""
    root = tmp_path_factory.mktemp("models")
    llama.write(root / "llama")
    config = llama.decoder_config("llama", **WIDE)
    weights = {name: array.astype(ml_dtypes.bfloat16) for name, array in llama.decoder_weights(config).items()}
    gguf = llama.write_decoder(root / "gguf", config, weights)
    write_gpt_oss(root / "gpt-oss")
    return {"gguf": gguf, "gpt-oss-mxfp4": root / "gpt-oss", "": root / "llama"}


def model_for(models, layout):
    return models.get(layout, models[""])


@pytest.fixture(scope="module")
def model(models):
    return models[""]


def exceptions(layout):
    """What each job leaves alone: gpt-oss's layout holds experts only."""
    return ("re:.*self_attn",) if layout == "gpt-oss-mxfp4" else ()


@pytest.mark.parametrize(("layout", "scheme"), HELD)
def test_planned_bytes_are_those_of_the_job(models, layout, scheme):
    checkpoint = open_checkpoint(model_for(models, layout))
    check_model(checkpoint, layouts.get(layout))
    recipe = Recipe(
        scheme=scheme, layout=layout, statistics="0" * 64, ignore=exceptions(layout)
    )  # static scales have a place in the file
    job = plan(checkpoint, recipe)
    written = sum(entry.nbytes for shard in job.shard_entries(1 << 40) for entry in shard)
    planned = planned_bytes(checkpoint, schemes.get(scheme), layouts.get(layout), ignore=exceptions(layout))
    assert planned == written


@pytest.mark.parametrize(
    ("layout", "scheme"), [(layout, scheme) for layout, scheme in HELD if not schemes.get(scheme).needs_calibration]
)
def test_bytes_of_what_was_written_are_0_off(models, tmp_path, layout, scheme):
    model, ignore = model_for(models, layout), exceptions(layout)
    planned = planned_bytes(open_checkpoint(model), schemes.get(scheme), layouts.get(layout), ignore=ignore)
    quantize(model, tmp_path / "out", scheme, layout=layout, threads=1, ignore=ignore)
    assert stored_bytes(open_checkpoint(tmp_path / "out")) == planned


def test_shape_agrees_with_the_tensors(model):
    checkpoint = open_checkpoint(model)
    shape = shape_of(checkpoint.config, name="tiny")
    assert weight_bytes(shape, Precision(schemes.get("bf16"))) == stored_bytes(checkpoint)
    for scheme in ("nvfp4a16", "mxfp4a16", "fp8_block"):
        planned = planned_bytes(checkpoint, schemes.get(scheme), layouts.get("compressed-tensors"))
        metadata = planned - weight_bytes(shape, Precision(schemes.get(scheme)))
        assert abs(metadata) < 0.01 * planned, scheme


def test_sizes_that_are_often_told_wrong():
    assert weight_bytes(LLAMA_8B, Precision(schemes.get("nvfp4"))) == pytest.approx(6.03e9, rel=1e-3)
    assert weight_bytes(LLAMA_8B, Precision(schemes.get("bf16"))) == 8_030_261_248 * 2


@pytest.mark.parametrize("name", catalog.names())
def test_fewer_bits_are_never_more_bytes(name):
    ladder = ("fp32", "bf16", "mxfp8", "mxfp6_e2m3", "nvfp4", "mxfp4")
    sizes = [weight_bytes(catalog.find(name), Precision(schemes.get(scheme))) for scheme in ladder]
    assert sizes == sorted(sizes, reverse=True)


def test_caches_in_bytes():
    wide, narrow = Precision(schemes.get("bf16")), Precision(schemes.get("bf16"), kv="fp8")
    assert cache_bytes(LLAMA_8B, wide, 1000) == 2 * 32 * 8 * 128 * 2 * 1000
    assert cache_bytes(LLAMA_8B, narrow, 1000) == cache_bytes(LLAMA_8B, wide, 1000) / 2
    assert cache_bytes(LLAMA_8B, wide, 1000, tp=8) == cache_bytes(LLAMA_8B, wide, 1000, tp=16) * 1
    latent = catalog.find("DeepSeek-R1")
    assert cache_bytes(latent, wide, 1000, tp=8) == cache_bytes(latent, wide, 1000)


def test_devices_share_weights():
    precision = Precision(schemes.get("fp8_block"))
    one = device_weights(role_bytes(LLAMA_8B, precision), Parallel())
    assert one == weight_bytes(LLAMA_8B, precision)
    assert one / 4 < device_weights(role_bytes(LLAMA_8B, precision), Parallel(tp=4)) < one / 3.9
    deepseek = catalog.find("DeepSeek-R1")
    apart = device_weights(role_bytes(deepseek, precision), Parallel(dp=8))
    assert (
        device_weights(role_bytes(deepseek, precision), Parallel(tp=8)) < apart < weight_bytes(deepseek, precision) / 6
    )
    assert device_weights(role_bytes(LLAMA_8B, precision), Parallel(), weights=one * 2) == one * 2


def test_more_sequences_take_more():
    precision = Precision(schemes.get("nvfp4"))
    totals = [
        memory(LLAMA_8B, precision, Parallel(), batch=b, context=c).total for b, c in ((1, 100), (2, 100), (2, 200))
    ]
    assert totals == sorted(set(totals))
