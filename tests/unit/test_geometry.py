import pytest

from halve import schemes
from halve.errors import CheckpointError, FormatError, UnknownNameError, UnsupportedError
from halve.models import arch, families
from halve.models.footprint import block_bytes, footprints, model_bytes
from halve.models.linear import why_kept
from halve.models.published import PUBLISHED, SIZES, find
from halve.schemes import SCHEMES, Block
from tiny import families as tiny_families

COUNTS = {  # "model.safetensors.index.json" and model cards of the repositories named in the rows
    "Llama-2-7B": 6_738_415_616,
    "Llama-3.1-8B": 8_030_261_248,
    "Qwen3-8B": 8_190_735_360,
    "Qwen2.5-7B": 7_615_616_512,
    "Llama-3.1-70B": 70_553_706_496,
    "SmolLM2-135M": 134_515_008,
}

SIZES_OF = {  # config.json of models of other families, and how many parameters their repositories show
    "Mistral-7B-v0.1": (7_241_732_096, {"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000}),
    "gemma-2-2b": (2_614_341_888, {"model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216,
        "num_hidden_layers": 26, "num_attention_heads": 8, "vocab_size": 256000}),
    "gemma-3-270m": (268_098_176, {"model_type": "gemma3_text", "hidden_size": 640, "intermediate_size": 2048,
        "num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1, "vocab_size": 262144}),
    "Phi-3-mini-4k-instruct": (3_821_079_552, {"model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192,
        "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32064}),
    "Phi-4-mini-instruct": (3_836_021_760, {"model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192,
        "num_hidden_layers": 32, "num_attention_heads": 24, "num_key_value_heads": 8, "vocab_size": 200064,
        "tie_word_embeddings": True}),
    "Qwen3-30B-A3B": (30_532_122_624, {"model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144,
        "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
        "vocab_size": 151936, "num_experts": 128, "moe_intermediate_size": 768}),
    "gpt-oss-20b": (20_914_757_184, {"model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880,
        "num_hidden_layers": 24, "num_attention_heads": 64, "vocab_size": 201088, "num_local_experts": 32}),
}  # fmt: skip

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}


def geometry(**changes):
    config = {key: value for key, value in (LLAMA | changes).items() if value is not None}
    return families.geometry(config, name="test")


def test_every_published_row_has_the_published_number_of_parameters():
    assert {name: row.count for name, row in PUBLISHED.items()} == COUNTS
    assert all(row.source for row in PUBLISHED.values())
    assert all(set(names) <= set(PUBLISHED) for _, names in SIZES.values())


@pytest.mark.parametrize("name", SIZES_OF)
def test_families_have_the_published_number_of_parameters(name):
    count, config = SIZES_OF[name]
    assert families.geometry(config, name=name).count == count


@pytest.mark.parametrize("name", tiny_families.DECODERS)
def test_linear_layers_of_every_family_are_those_that_the_quantizer_selects(name):
    config = tiny_families.config_of(name)
    architecture = arch.of(config)
    for parameter in families.geometry(config, name=name).parameters:
        selected = architecture.why_kept(parameter.name, len(parameter.shape)) == ""
        assert selected == (parameter.kind == "linear"), parameter


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss", "gemma3", "phi3"])
def test_bytes_of_every_family(name):
    config = tiny_families.config_of(name, hidden_size=64, intermediate_size=64, moe_intermediate_size=32)
    g = families.geometry(config, name=name)
    linears = sum(p.count for p in g.parameters if p.kind == "linear")
    assert model_bytes(g, SCHEMES["bf16"]) == 2 * g.count
    assert model_bytes(g, SCHEMES["mxfp4"]) == linears // 2 + linears // 32 + 2 * (g.count - linears)


@pytest.mark.parametrize("name", PUBLISHED)
def test_linear_layers_are_those_that_the_quantizer_selects(name):
    for parameter in PUBLISHED[name].parameters:
        selected = why_kept(parameter.name, len(parameter.shape)) == ""
        assert selected == (parameter.kind == "linear"), parameter


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_are_unique(name):
    names = [parameter.name for parameter in PUBLISHED[name].parameters]
    assert len(set(names)) == len(names)


def test_config_of_a_published_model_gives_its_row():
    config = {
        "model_type": "qwen3",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "tie_word_embeddings": False,
        "attention_bias": False,
    }
    row = PUBLISHED["Qwen3-8B"]
    assert families.geometry(config, name=row.name, source=row.source) == row


def test_defaults_of_a_config():
    g = geometry()
    assert (g.kv_heads, g.head_dim, g.tied, g.qkv_bias, g.qk_norm) == (4, 16, False, False, False)
    assert geometry(model_type="qwen3").head_dim == 128
    assert geometry(head_dim=32).head_dim == 32


def test_what_a_config_adds():
    base = geometry()
    assert geometry(tie_word_embeddings=True).count == base.count - 100 * 64
    assert geometry(attention_bias=True).count == base.count + 2 * 4 * 64
    assert geometry(mlp_bias=True).count == base.count + 2 * (128 + 128 + 64)
    assert geometry(model_type="qwen2").count == base.count + 2 * 3 * 64
    assert geometry(model_type="qwen3", head_dim=16).count == base.count + 2 * 2 * 16
    assert geometry(num_key_value_heads=1).count == base.count - 2 * 2 * 3 * 16 * 64


@pytest.mark.parametrize("value", [None, 0, -1, "64", 1.5, True])
def test_sizes_that_are_none(value):
    with pytest.raises(CheckpointError, match="hidden_size"):
        geometry(hidden_size=value)


def test_model_types_that_are_not_covered():
    with pytest.raises(UnsupportedError, match="'bert'"):
        geometry(model_type="bert")
    with pytest.raises(UnsupportedError, match="None"):
        geometry(model_type=None)


@pytest.mark.parametrize(
    ("block", "shape", "expected"),
    [
        (Block(element="fp4_e2m1", scale="ue4m3", block_size=16, tensor_scale=True), (4, 32), 64 + 8 + 4),
        (Block(element="fp6_e2m3", scale="e8m0", block_size=32), (4, 32), 96 + 4),
        (Block(element="fp8_e4m3"), (4, 32), 128 + 4 * 4),
        (Block(element="fp8_e4m3", block_size=(128, 128)), (130, 257), 130 * 257 + 2 * 3 * 4),
        (Block(element="uint4", scale="bf16", block_size=32, zero_point=True), (3, 32), 48 + 6 + 2),
        (Block(element="bf16", scale=None), (3, 5), 30),
        (Block(element="fp4_e2m1", scale=None), (3, 5), 9),
    ],
)
def test_bytes_of_a_block(block, shape, expected):
    assert block_bytes(block, *shape) == expected


def test_bytes_of_a_block_that_does_not_divide():
    with pytest.raises(FormatError, match="33 columns"):
        block_bytes(schemes.get("mxfp4").weight, 4, 33)


@pytest.mark.parametrize("name", [name for name, scheme in SCHEMES.items() if not scheme.dense])
def test_large_models_approach_bpw(name):
    scheme, model = SCHEMES[name], PUBLISHED["Llama-3.1-70B"]
    linears = sum(p.count for p in model.parameters if p.kind == "linear")
    kept = 2 * (model.count - linears)
    assert 8 * (model_bytes(model, scheme) - kept) / linears == pytest.approx(scheme.bpw, rel=1e-3)


@pytest.mark.parametrize(("name", "size"), [("fp32", 4), ("bf16", 2), ("fp16", 2)])
def test_casts_take_every_tensor(name, size):
    model = PUBLISHED["SmolLM2-135M"]
    assert model_bytes(model, SCHEMES[name]) == size * model.count
    assert model_bytes(model, SCHEMES[name], embeddings=True) == size * model.count


def test_the_block_size_that_divides_is_used():
    model = PUBLISHED["SmolLM2-135M"]  # 576 columns: 64 divides, 128 does not
    linears = sum(p.count for p in model.parameters if p.kind == "linear")
    assert model_bytes(model, SCHEMES["w4a16"]) == linears // 2 + linears // 64 * 2 + 2 * (model.count - linears)


def test_tied_embeddings_count_once():
    g = geometry(tie_word_embeddings=True, hidden_size=64, vocab_size=128)
    scheme = SCHEMES["mxfp8"]
    saved = model_bytes(g, scheme) - model_bytes(g, scheme, embeddings=True)
    assert saved == 128 * 64 * 2 - 128 * 64 * 33 // 32


def test_the_table_groups_schemes_that_store_weights_alike():
    table = footprints(*find("7b"))
    names = [scheme.name for row in table.footprints for scheme in row.schemes]
    assert sorted(names) == sorted(SCHEMES)
    assert [row.bpw for row in table.footprints] == sorted((row.bpw for row in table.footprints), reverse=True)
    assert all(len({scheme.weight for scheme in row.schemes}) == 1 for row in table.footprints)
    assert len(table.columns) == len(next(iter(table.rows())))


def test_find():
    assert find("7B") == find("7b")
    assert find("qwen3-8b") == (COUNTS["Qwen3-8B"], (PUBLISHED["Qwen3-8B"],))
    with pytest.raises(UnknownNameError, match="unknown model 'gpt-2'"):
        find("gpt-2")
