"""Shapes of models: as many numbers as their makers say, and as many as the tensor lists of the Llama family have."""

import pytest

from halve.errors import CheckpointError, UnknownNameError, UnsupportedError
from halve.models import catalog
from halve.models.config_shape import shape_of
from halve.models.published import PUBLISHED

# What the makers call them: billions of weights, and those that a token meets. Vision towers and the layers that
# predict a second token are not counted, so that names may be some percent above.
CALLED = {
    "Qwen3-30B-A3B": (30.5, 3.3),
    "Qwen3-235B-A22B": (235, 22),
    "Qwen3-Coder-480B-A35B": (480, 35),
    "Qwen3.5-397B-A17B": (397, 17),
    "Qwen3.5-122B-A10B": (122, 10),
    "DeepSeek-V3": (671, 37),
    "Kimi-K2": (1040, 32),
    "gpt-oss-120b": (117, 5.1),
    "gpt-oss-20b": (21, 3.6),
    "Llama-4-Maverick": (400, 17),
    "Llama-4-Scout": (109, 17),
    "Llama-3.1-405B": (405, 405),
    "Mixtral-8x7B": (46.7, 12.9),
    "Mixtral-8x22B": (141, 39),
    "GLM-5": (744, 40),
    "MiniMax-M2.5": (229, 10),
    "Gemma-2-9B": (9.24, 9.24),
}


@pytest.mark.parametrize(("name", "called"), CALLED.items())
def test_count_is_what_the_maker_says(name, called):
    shape = catalog.find(name)
    assert shape.count / 1e9 == pytest.approx(called[0], rel=0.02)
    assert shape.active / 1e9 == pytest.approx(called[1], rel=0.12)


@pytest.mark.parametrize("name", ["Llama-2-7B", "Llama-3.1-8B", "Llama-3.1-70B", "SmolLM2-135M"])
def test_matrices_are_those_of_the_tensor_list(name):
    exact = sorted(p.shape for p in PUBLISHED[name].parameters if len(p.shape) == 2)
    shape = catalog.find(name)
    assert sorted((m.rows, m.columns) for m in shape.matrices for _ in range(m.count) if m.role != "norm") == exact
    assert shape.count == PUBLISHED[name].count


@pytest.mark.parametrize("name", catalog.names())
def test_every_model_has_a_source_and_layers(name):
    shape = catalog.find(name)
    assert shape.source
    assert shape.depth == sum(layer.count for layer in shape.layers) > 0
    assert shape.cached(1000) < shape.cached(2000)


def test_caches():
    assert catalog.find("Llama-3.1-8B").cached(1) == 2 * 32 * 8 * 128
    assert catalog.find("DeepSeek-R1").cached(1) == 61 * (512 + 64)
    gpt = catalog.find("gpt-oss-120b")  # half of the layers keep 128 tokens
    assert gpt.cached(1000) == 2 * 8 * 64 * (18 * 1000 + 18 * 128)
    hybrid = catalog.find("Qwen3.5-397B-A17B")  # three of four layers keep a state
    assert hybrid.cached(2000) - hybrid.cached(1000) == 15 * 2 * 2 * 256 * 1000


def test_unknown_models_list_near_ones():
    with pytest.raises(UnknownNameError) as error:
        catalog.find("Llama-3.1-8")
    assert "Llama-3.1-8B" in error.value.hint
    assert catalog.find("nvidia/deepseek-r1-0528").name == "DeepSeek-R1"


def test_what_is_no_model_is_refused():
    with pytest.raises(UnsupportedError, match="does not know model type 'mamba'"):
        shape_of({"model_type": "mamba", "num_hidden_layers": 1}, name="m")
    with pytest.raises(CheckpointError, match="num_hidden_layers"):
        shape_of({"model_type": "llama"}, name="m")
