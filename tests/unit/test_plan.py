"""Which tensors change, which stay and why, what they share, and how many bytes come out: before any byte is read."""

from pathlib import Path

import pytest

from halve import layouts
from halve.checkpoint.base import TensorInfo
from halve.errors import RecipeError, UnsupportedError
from halve.models.fused import fused_group
from halve.models.linear import why_kept
from halve.pipeline.plan import default_layout, plan
from halve.schemes import SCHEMES, get
from halve.schemes.recipe import Recipe

HIDDEN, INTER, VOCAB = 192, 512, 1000


class Shapes:
    """A checkpoint that has shapes and no bytes."""

    path = Path("model")
    config: dict[str, object] = {}  # noqa: RUF012 - never written to

    def auxiliary(self):
        return {"tokenizer.json": b"{}"}

    def __init__(self, dtype="BF16", **extra):
        layer = "model.layers.0"
        shapes = {
            "model.embed_tokens.weight": (VOCAB, HIDDEN),
            f"{layer}.input_layernorm.weight": (HIDDEN,),
            f"{layer}.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            f"{layer}.self_attn.q_proj.bias": (HIDDEN,),
            f"{layer}.self_attn.k_proj.weight": (64, HIDDEN),
            f"{layer}.self_attn.v_proj.weight": (64, HIDDEN),
            f"{layer}.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            f"{layer}.mlp.gate_proj.weight": (INTER, HIDDEN),
            f"{layer}.mlp.up_proj.weight": (INTER, HIDDEN),
            f"{layer}.mlp.down_proj.weight": (HIDDEN, INTER),
            "lm_head.weight": (VOCAB, HIDDEN),
        } | extra
        self.tensors = {name: TensorInfo(name, dtype, shape) for name, shape in shapes.items()}


def make(scheme, checkpoint=None, **recipe):
    layout = recipe.pop("layout", None) or default_layout(get(scheme))
    return plan(checkpoint or Shapes(), Recipe(scheme=scheme, layout=layout, **recipe))


def test_linear_layers_change_and_the_rest_stays():
    job = make("nvfp4a16")
    assert {t.source.name.split(".")[-2] for t in job.quantized} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    kept = {t.source.name: t.why for t in job.tensors if t.action == "keep"}
    assert kept["lm_head.weight"] == "output head"
    assert kept["model.embed_tokens.weight"] == "embedding"
    assert kept["model.layers.0.self_attn.q_proj.bias"] == "not a weight"


def test_fused_layers_share_a_group():
    groups = {t.source.name.split(".")[-2]: t.group.split(".")[-1] for t in make("nvfp4a16").quantized}
    assert groups["q_proj"] == groups["k_proj"] == groups["v_proj"] == "qkv_proj"
    assert groups["gate_proj"] == groups["up_proj"] == "gate_up_proj"
    assert groups["down_proj"] == "down_proj"


def test_bytes_by_hand():
    weights = 2 * HIDDEN * HIDDEN + 2 * 64 * HIDDEN + 3 * HIDDEN * INTER
    quantized = sum(t.nbytes for t in make("nvfp4a16").quantized)
    assert quantized == weights // 2 + weights // 16 + 7 * 4  # codes, block scales, seven tensor scales
    assert sum(t.nbytes for t in make("mxfp6_e2m3a16").quantized) == weights * 6 // 8 + weights // 32
    rows = 2 * HIDDEN + 2 * 64 + 2 * INTER + HIDDEN
    assert sum(t.nbytes for t in make("w8a8").quantized) == weights + 2 * rows  # BF16 row scales
    assert make("nvfp4a16").bpw == pytest.approx(4.5, abs=0.001)


def test_int4_takes_the_largest_block_that_divides_everything():
    assert make("w4a16").scheme.weight.block_size == 64  # 192 = 3 * 64
    wide = Shapes(**{f"model.layers.0.mlp.{p}_proj.weight": (32, 256) for p in ("gate", "up", "down")})
    wide.tensors = {n: t for n, t in wide.tensors.items() if ".mlp." in n}
    assert make("w4a16", wide).scheme.weight.block_size == 128


def test_ignore_wins_over_include_and_include_over_the_choice_by_name():
    job = make("fp8_dynamic", include=("lm_head",), ignore=("re:.*down_proj",))
    names = {t.source.name for t in job.quantized}
    assert "lm_head.weight" in names
    assert not any("down_proj" in name for name in names)
    both = make("fp8_dynamic", include=("lm_head",), ignore=("lm_head",))
    assert "lm_head.weight" not in {t.source.name for t in both.quantized}


@pytest.mark.parametrize("patterns", [{"ignore": ("nothing",)}, {"include": ("re:.*nothing",)}, {"ignore": ("re:(",)}])
def test_patterns_that_name_nothing_or_are_none_are_refused(patterns):
    with pytest.raises(RecipeError):
        make("fp8_dynamic", **patterns)


def test_including_a_vector_is_refused():
    with pytest.raises(RecipeError, match="no linear layer"):
        make("fp8_dynamic", include=("re:.*layernorm",))


@pytest.mark.parametrize("name", ["model.embed_tokens", "re:.*q_proj.bias"])
def test_what_is_no_linear_layer_is_not_included(name):
    with pytest.raises(RecipeError, match="no linear layer"):
        make("fp8_dynamic", include=(name,))


def test_nothing_left_is_refused():
    with pytest.raises(RecipeError, match="no tensor"):
        make("fp8_dynamic", ignore=("re:.*",))


def test_columns_that_no_block_divides_name_the_tensor_and_the_way_out():
    odd = Shapes(**{"model.layers.0.mlp.down_proj.weight": (HIDDEN, 500)})
    with pytest.raises(RecipeError, match=r"down_proj\.weight: 500 columns") as raised:
        make("nvfp4a16", odd)
    assert "--ignore 're:.*down_proj'" in raised.value.hint


def test_schemes_that_need_calibration_name_those_that_do_not():
    with pytest.raises(UnsupportedError, match=r"needs the statistics of activations"):
        make("nvfp4")


def test_a_layout_that_cannot_hold_a_scheme_names_one_that_can():
    with pytest.raises(UnsupportedError) as raised:
        make("mxfp6_e2m3a16", layout="compressed-tensors")
    assert "quark" in raised.value.hint


def test_integers_and_doubles_stay():
    mixed = Shapes()
    name = "model.layers.0.mlp.down_proj.weight"
    mixed.tensors[name] = TensorInfo(name, "F64", (HIDDEN, INTER))
    kept = {t.source.name: t.why for t in make("nvfp4a16", mixed).tensors if t.action == "keep"}
    assert kept[name] == "F64, not a float that can be quantized"


def test_a_cast_changes_every_float_tensor_but_those_that_have_the_type():
    assert len(make("fp32").quantized) == len(Shapes().tensors)
    assert make("bf16").quantized == []


def test_keeping_one_of_a_fused_group_keeps_the_group():
    job = make("nvfp4a16").keep({"model.layers.0.self_attn.k_proj.weight"})
    kept = {t.source.name.split(".")[-2] for t in job.tensors if "not finite" in t.why}
    assert kept == {"q_proj", "k_proj", "v_proj"}


def test_two_tensors_that_would_have_one_name_are_refused():
    clash = Shapes(**{"model.layers.0.mlp.up_proj.weight_scale": (INTER, 1)})
    with pytest.raises(UnsupportedError, match=r"would both be stored as .*up_proj\.weight_scale"):
        make("fp8_dynamic", clash)


def test_shards_split_between_tensors():
    job = make("nvfp4a16")
    shards = job.shards(200_000)
    assert [t for shard in shards for t in shard] == list(job.tensors)
    assert all(len(shard) == 1 or sum(t.nbytes for t in shard) <= 200_000 for shard in shards)
    assert len(job.shards()) == 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_has_a_layout(scheme):
    assert not layouts.get(default_layout(get(scheme))).supports(get(scheme)).refused


@pytest.mark.parametrize(
    ("name", "dimensions", "why"),
    [
        ("model.layers.3.mlp.gate.weight", 2, "router"),
        ("model.layers.3.block_sparse_moe.gate.weight", 2, "router"),
        ("model.layers.3.mlp.shared_expert_gate.weight", 2, "router"),
        ("model.layers.3.mlp.gate_proj.weight", 2, ""),
        ("model.layers.3.mlp.experts.7.down_proj.weight", 2, ""),
        ("model.layers.3.mlp.experts.gate_up_proj", 3, "not a weight"),
        ("model.layers.3.self_attn.q_norm.weight", 1, "1-D"),
        ("model.visual.blocks.0.attn.qkv.weight", 2, "vision or audio"),
        ("embeddings.position_embeddings.weight", 2, "embedding"),
        ("transformer.wte.weight", 2, "embedding"),
        ("encoder.layer.0.attention.self.query.weight", 2, ""),
    ],
)
def test_names_that_engines_keep(name, dimensions, why):
    assert why_kept(name, dimensions) == why


def test_fused_group_of_a_lone_layer_is_itself():
    assert fused_group("model.layers.0.self_attn.o_proj.weight") == "model.layers.0.self_attn.o_proj"
    assert fused_group("model.layers.1.mlp.experts.0.w3.weight") == "model.layers.1.mlp.experts.0.w13"
