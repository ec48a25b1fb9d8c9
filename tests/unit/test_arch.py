"""Architectures: what transformers' own classes are made of, told by names."""

from pathlib import Path

import numpy as np
import pytest

from golden.arch.weights import ARCHITECTURES, FORMS, FUSED, Weight, tensors
from halve.errors import CheckpointError
from halve.models import arch, linear
from halve.models.arch import Edge, Stack, Wrapper

# Linear layers that engines keep in 16 bits: vLLM 0.32 makes them with quant_config=None or as GateLinear, and Qwen
# keeps the gates of linear attention in its FP8 checkpoints.
KEPT_LINEARS = ("shared_expert_gate", "indexer.wk", "indexer.weights_proj", "in_proj_ba", "in_proj_a", "in_proj_b")
TOWERS = {"visual", "vision_tower", "vision_model", "connector", "multi_modal_projector", "mm_projector"} | {
    "patch_merge_mlp"
}


def architecture(name):
    return arch.of(ARCHITECTURES[name]["config"])


def unpacked(name, form):
    """The weights with each expert by itself."""
    found = tensors(name, form)
    for stack in architecture(name).stacks(found):
        whole = found.pop(stack.tensor)
        experts, *matrix = whole.shape
        out, columns = reversed(matrix) if stack.transposed else matrix
        shape = (out // len(stack.parts), columns)
        found |= {stack.weight(e, part): Weight(whole.kind, shape) for e in range(experts) for part in stack.parts}
    return found


def quantized_by_transformers(name, weight):
    """Whether a weight is one of a Linear module, or of an expert, and none that engines keep."""
    module = name.removesuffix(".weight")
    parts = set(module.split("."))
    if not name.endswith(".weight") or len(weight.shape) != 2 or parts & TOWERS or module.endswith("lm_head"):
        return False
    return (weight.kind == "Linear" and not module.endswith(KEPT_LINEARS)) or weight.kind.endswith("Experts")


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_quantized_weights_are_those_of_linear_modules(name, form):
    of, weights = architecture(name), unpacked(name, form)
    expected = {n for n, w in weights.items() if quantized_by_transformers(n, w)}
    assert {n for n, w in weights.items() if not of.why_kept(n, len(w.shape))} == expected
    assert of.checked
    assert not of.warning


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_kept_weights_say_why(name, form):
    of = architecture(name)
    found = {}
    for n, weight in unpacked(name, form).items():
        if n.endswith(".weight") and len(weight.shape) == 2:
            found.setdefault(of.why_kept(n, 2), set()).add(n)
    towers = {n for names in found.values() for n in names if set(n.split(".")) & TOWERS}
    assert found.pop("vision or audio", set()) == towers
    assert found.pop("embedding").isdisjoint(towers)
    assert all("gate" in n or "router" in n for n in found.pop("router", ()))
    assert all(n.endswith("lm_head.weight") for n in found.pop("output head", ()))
    rest = {n.removesuffix(".weight") for why, names in found.items() if why for n in names}
    assert all(n.endswith(KEPT_LINEARS) for n in rest)
    assert set(found) <= {"", "indexer", "gate of linear attention"}


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_parts_of_a_fused_layer_have_the_same_columns(name, form):
    of, groups = architecture(name), {}
    for n, weight in unpacked(name, form).items():
        if not of.why_kept(n, len(weight.shape)):
            groups.setdefault(of.fused_group(n), []).append(weight.shape[1])
    assert all(len(set(columns)) == 1 for columns in groups.values())


@pytest.mark.parametrize(("name", "form"), [(n, f) for n, f in FORMS if architecture(n).family.name in FUSED])
def test_fused_layers_are_vllms(name, form):
    of = architecture(name)
    for n, weight in unpacked(name, form).items():
        if not of.why_kept(n, len(weight.shape)) and ".experts." not in n:
            parent, _, leaf = n.removesuffix(".weight").rpartition(".")
            assert of.fused_group(n) == f"{parent}.{FUSED[of.family.name].get(leaf, leaf)}"


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_sizes_of_edges(name, form):
    of, weights = architecture(name), unpacked(name, form)
    edges = of.edges(weights)
    assert edges
    for edge in edges:
        producer = weights[edge.producer].shape
        assert edge.first_row + edge.channels <= producer[0]
        assert edge.channels == producer[0] or len(producer) == 2
        for consumer in edge.consumers:
            assert weights[consumer].shape[1] == edge.channels * edge.groups
        assert edge.groups == 1 or edge.channels % edge.head == 0
        assert edge.bias == "" or weights[edge.bias].shape == producer[:1]
    # every linear layer of a decoder layer is read by something, but for what attention and a gate put out
    consumed = {n for edge in edges for n in edge.consumers}
    free = {n for n, w in weights.items() if not of.why_kept(n, len(w.shape))} - consumed
    outputs = ("o_proj.weight", "out_proj.weight", "down_proj.weight", "w2.weight")
    assert all(n.endswith(outputs) for n in free) or of.family.name == "minimax"


def test_families_that_vllm_has_no_code_for():
    assert {architecture(name).family.name for name, _ in FORMS} - set(FUSED) == {"mistral4", "minimax", "smollm3"}


def test_every_architecture_is_tested_or_says_that_it_is_guessed():
    configs = [case["config"] for case in ARCHITECTURES.values()]
    tested = {c["model_type"] for c in configs} | {
        c["text_config"]["model_type"] for c in configs if "text_config" in c
    }
    stated = {model_type for family in arch.families() for model_type in family.model_types}
    assert stated == tested
    guessed = [model_type for family in arch.families() for model_type in family.guessed]
    assert len(guessed) == len(set(guessed))
    assert stated.isdisjoint(guessed)
    for model_type in guessed:
        of = arch.of({"model_type": model_type})
        assert not of.checked
        assert of.family is not None
        assert f"{model_type} was not checked" in of.warning


def test_a_file_is_a_family():
    folder = Path(arch.__file__).parent
    names = {path.stem for path in folder.glob("*.py")} - {"__init__", "architecture", "base", "edge", "stack"}
    assert len(names) >= 14
    assert len(arch.families()) >= len(names)


@pytest.mark.parametrize("wrapper", [f for f in arch.families() if isinstance(f, Wrapper)], ids=lambda f: f.name)
def test_towers_are_those_of_the_classes(wrapper):
    seen = set()
    for name, form in FORMS:
        if name in wrapper.model_types:
            seen |= {part for n in tensors(name, form) for part in n.split(".")}
    missing = set(wrapper.towers) - seen
    assert missing <= {"multi_modal_projector"}  # Kimi-VL's, which is guessed
    assert wrapper.towers


@pytest.mark.parametrize(
    ("name", "form"),
    [(n, f) for n, f in FORMS if f == "memory" and "saved" in ARCHITECTURES[n] and architecture(n).family.packing],
)
def test_experts_are_unpacked_as_transformers_saves_them(name, form):
    def within_layers(weights):
        return {
            (n.rpartition("layers.")[2].replace("block_sparse_moe", "mlp"), w.shape)
            for n, w in weights.items()
            if ".experts." in n
        }

    assert within_layers(unpacked(name, form)) == within_layers(tensors(name, "saved"))


def test_experts_of_gpt_oss_stay_whole():
    found = unpacked("gpt_oss", "saved")
    assert found["model.layers.0.mlp.experts.2.gate_up_proj.weight"].shape == (160, 64)
    assert found["model.layers.0.mlp.experts.2.down_proj.weight"].shape == (64, 80)
    assert found["model.layers.0.mlp.experts.gate_up_proj_bias"].shape == (3, 160)


P = "model.layers.0.mlp.experts"


@pytest.mark.parametrize(
    ("model_type", "hidden", "shapes", "transposed"),
    [
        ("qwen3_vl_moe_text", 64, [(3, 64, 96), (3, 48, 64)], True),
        ("qwen3_vl_moe_text", 64, [(3, 96, 64), (3, 64, 48)], False),
        ("qwen3_vl_moe_text", 64, [(3, 64, 64), (3, 32, 64)], True),  # the shape does not tell: as published
        ("qwen3_moe", 64, [(3, 64, 64), (3, 64, 32)], False),
        ("gpt_oss", 64, [(3, 64, 128), (3, 64, 64)], True),  # only the first tells, as in gpt-oss itself
        ("llama4_text", None, [(3, 64, 96), (3, 48, 64)], True),
    ],
)
def test_the_hidden_size_tells_the_orientation(model_type, hidden, shapes, transposed):
    of = arch.of({"model_type": model_type} | ({"hidden_size": hidden} if hidden else {}))
    weights = {f"{P}.{n}": Weight("", shape) for n, shape in zip(("gate_up_proj", "down_proj"), shapes, strict=True)}
    assert [stack.transposed for stack in of.stacks(weights)] == [transposed, transposed]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("gate_up_proj", (3, 96, 60)),
        ("gate_up_proj", (3, 95, 64)),
        ("down_proj", (3, 60, 48)),
        ("down_proj", (0, 64, 1)),
    ],
)
def test_shapes_that_are_no_experts(name, shape):
    of = arch.of({"model_type": "qwen3_moe", "hidden_size": 64})
    with pytest.raises(CheckpointError, match=r"no experts of a qwen3_moe with hidden_size 64"):
        of.stacks({f"{P}.{name}": Weight("", shape)})


def test_names_of_a_stack():
    stack = Stack(f"{P}.gate_up_proj", False, ("gate_proj", "up_proj"))
    assert stack.weight(7, "up_proj") == f"{P}.7.up_proj.weight"


def test_packed_experts_that_nobody_unpacks():
    of = architecture("qwen3_moe")
    weights = tensors("qwen3_moe", "memory")
    assert of.why_kept(f"{P}.gate_up_proj", 3) == "packed experts"
    assert not of.is_linear(f"{P}.gate_up_proj", 3)
    assert {edge.producer.split(".")[-2] for edge in of.edges(weights)} == {"v_proj"}  # experts read norms, too
    unknown = arch.of({"model_type": "mystery"})
    assert unknown.stacks(weights) == []
    assert unknown.why_kept(f"{P}.down_proj", 3) == "packed experts"


def edges(name, form="saved"):
    """Edges by the last parts of the producer's name in layer 0 or 1."""
    found = architecture(name).edges(unpacked(name, form))
    return {edge.producer.rpartition("layers.")[2].removesuffix(".weight"): edge for edge in found}


def test_values_of_grouped_queries():
    edge = edges("llama")["0.self_attn.v_proj"]
    assert (edge.groups, edge.head, edge.channels) == (2, 16, 32)
    produced = np.arange(32, dtype=np.float32)
    spread = edge.spread(produced)
    # columns of o_proj are heads: queries 0 and 1 read the values of the first head
    np.testing.assert_array_equal(spread.reshape(4, 16), produced.reshape(2, 16)[[0, 0, 1, 1]])
    np.testing.assert_array_equal(edge.shared(spread), produced)
    np.testing.assert_array_equal(edge.shared(np.arange(64, dtype=np.float32)).reshape(2, 16)[0], np.arange(16, 32))
    alone = Edge("a", ("b",), channels=4)
    np.testing.assert_array_equal(alone.shared(alone.spread(produced)), produced)


def test_channels_of_layers_that_are_one_weight():
    found = edges("phi3")
    values, up = found["0.self_attn.qkv_proj"], found["0.mlp.gate_up_proj"]
    assert (values.first_row, values.channels, values.groups) == (64 + 32, 32, 2)
    assert (up.first_row, up.channels) == (80, 80)
    placed = up.placed(np.full(80, 3, np.float32), 160)
    np.testing.assert_array_equal(placed, np.repeat([1, 3], 80).astype(np.float32))


def test_norms_that_add_one_and_norms_with_a_bias():
    gemma, phi = edges("gemma3_text"), edges("phimoe")
    assert gemma["0.input_layernorm"].offset == 1
    assert gemma["0.pre_feedforward_layernorm"].offset == 1
    assert "0.post_attention_layernorm" not in gemma
    assert edges("llama")["0.input_layernorm"].offset == 0
    assert phi["0.input_layernorm"].bias == "model.layers.0.input_layernorm.bias"
    assert edges("qwen2")["0.self_attn.v_proj"].bias == "model.layers.0.self_attn.v_proj.bias"


def test_routers_and_experts_read_the_same_norm():
    consumers = edges("qwen2_moe")["1.post_attention_layernorm"].consumers
    assert "model.layers.1.mlp.gate.weight" in consumers
    assert "model.layers.1.mlp.shared_expert_gate.weight" in consumers
    assert "model.layers.1.mlp.experts.2.up_proj.weight" in consumers
    assert len(consumers) == 2 + 2 * 4


def test_no_edges_through_what_is_not_linear():
    for name in ("gpt_oss", "minimax_m3_vl"):  # clamped, and 1 is added
        assert not any(producer.endswith(("up_proj", "w3")) for producer in edges(name))
    assert not any(producer.endswith("norm") for producer in edges("minimax"))
    assert not any(producer.endswith("kv_b_proj") for producer in edges("deepseek_v3"))


def test_a_weight_that_nobody_knows_takes_a_layers_norms_away():
    of, weights = architecture("llama"), tensors("llama", "saved")
    weights["model.layers.1.self_attn.extra_proj.weight"] = Weight("Linear", (8, 64))
    assert of.why_kept("model.layers.1.self_attn.extra_proj.weight", 2) == "no linear layer of llama"
    assert of.is_linear("model.layers.1.self_attn.extra_proj.weight", 2)
    norms = [edge.producer for edge in of.edges(weights) if "norm" in edge.producer]
    assert norms == ["model.layers.0.input_layernorm.weight", "model.layers.0.post_attention_layernorm.weight"]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_attention_heads": 3},
        {"num_attention_heads": 4, "num_key_value_heads": 3},
        {"num_attention_heads": "4", "num_key_value_heads": 2},
        {"num_attention_heads": 4, "num_key_value_heads": 1},
    ],
)
def test_heads_that_cannot_be(config):
    found = arch.of({"model_type": "llama"} | config).edges(tensors("llama", "saved"))
    assert not any("v_proj" in edge.producer for edge in found)


def test_edges_of_a_norm_that_is_too_long():
    weights = tensors("llama", "saved")
    weights["model.layers.0.input_layernorm.weight"] = Weight("", (32,))
    weights["model.layers.0.mlp.up_proj.weight"] = Weight("", (80, 4, 16))
    found = {edge.producer for edge in architecture("llama").edges(weights)}
    assert "model.layers.0.input_layernorm.weight" not in found
    assert "model.layers.0.mlp.up_proj.weight" not in found


@pytest.mark.parametrize(
    ("config", "family", "checked"),
    [
        ({"model_type": "qwen2_vl", "hidden_size": 64}, "qwen2", True),  # flat, as published
        ({"model_type": "llava", "text_config": {"model_type": "mistral"}}, "mistral", True),
        ({"model_type": "llava", "text_config": {"hidden_size": 64}}, "llama", True),
        ({"model_type": "llava", "text_config": {"model_type": "opt"}}, None, False),
        ({"model_type": "llava_next_video", "text_config": {"model_type": "llama"}}, "llama", False),
        ({"model_type": "kimi_k25", "text_config": {"model_type": "kimi_k2"}}, "deepseek_v3", False),
        ({"model_type": "mystery"}, None, False),
        ({"model_type": ["llama"]}, None, False),
        ({"model_type": "llava", "text_config": "llama"}, "llama", True),
        ({}, None, False),
    ],
)
def test_of(config, family, checked):
    of = arch.of(config)
    assert (of.family.name if of.family else None) == family
    assert of.checked is checked
    assert bool(of.warning) is not checked


def test_what_the_warning_is_about():
    assert "'opt'" in arch.of({"model_type": "llava", "text_config": {"model_type": "opt"}}).warning
    assert "kimi_k2 was not checked" in arch.of({"model_type": "kimi_k2"}).warning
    assert "names of deepseek_v3" in arch.of({"model_type": "kimi_k2"}).warning


def test_unknown_architectures_go_by_names_and_shapes():
    of = arch.of({"model_type": "mystery"})
    assert "does not know the architecture 'mystery'" in of.warning
    for name, form in FORMS:
        for n, weight in tensors(name, form).items():
            if of.why_kept(n, len(weight.shape)) != "packed experts":
                assert of.why_kept(n, len(weight.shape)) == linear.why_kept(n, len(weight.shape))
    assert of.fused_group("model.layers.0.self_attn.k_proj.weight") == "model.layers.0.self_attn.qkv_proj"
    assert of.edges(tensors("llama", "saved")) == []


def test_an_unknown_wrapper_keeps_known_towers():
    of = arch.of({"model_type": "internvl_chat", "llm_config": {"model_type": "qwen2", "hidden_size": 64}})
    assert of.why_kept("vision_model.encoder.layers.0.mlp.fc1.weight", 2) == "vision or audio"
    assert of.why_kept("language_model.model.layers.0.mlp.up_proj.weight", 2) == ""


@pytest.mark.parametrize(
    ("model_type", "tensor", "why"),
    [
        ("deepseek_v3", "model.layers.61.eh_proj.weight", "multi-token prediction"),
        ("deepseek_v3", "model.layers.61.shared_head.head.weight", "output head"),
        ("deepseek_v3", "model.layers.61.embed_tokens.weight", "embedding"),
        ("deepseek_v3", "model.layers.61.self_attn.kv_b_proj.weight", ""),
        ("glm4_moe", "model.layers.46.eh_proj.weight", "multi-token prediction"),
        ("qwen3_next", "mtp.fc.weight", "multi-token prediction"),
        ("qwen3_next", "mtp.layers.0.mlp.experts.3.up_proj.weight", ""),
        ("qwen2", "layers.0.mlp.up_proj.weight", ""),  # an embedding model, without its head
        ("llama", "model.layers.0.mlp.up_proj.bias", "not a weight"),
        ("llama", "score.weight", "output head"),
    ],
)
def test_names_that_transformers_has_no_class_for(model_type, tensor, why):
    assert arch.of({"model_type": model_type}).why_kept(tensor, 2) == why


def test_linear_modules_that_engines_ask_about():
    of = architecture("qwen2_moe")
    assert of.is_linear("lm_head.weight", 2)
    assert of.is_linear("model.layers.0.mlp.gate.weight", 2)
    assert of.is_linear("model.layers.0.mlp.up_proj.weight", 2)
    assert not of.is_linear("model.embed_tokens.weight", 2)
    assert not of.is_linear("model.norm.weight", 1)
