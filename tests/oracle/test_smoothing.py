"""Models of transformers that a transform has rewritten compute what they did: norms of 1 + weight, layers in one."""

import json
import runpy
from contextlib import closing

import numpy as np
import pytest

from golden.arch.weights import FOLDER
from halve.checkpoint.base import read_array
from halve.models import arch
from halve.models.fused import fused_group
from halve.pipeline.folded import Folded
from halve.pipeline.making import make_plan
from halve.pipeline.smoothing import fold
from halve.pipeline.statistics import Facts, StatisticsFile, entries, put, writer
from halve.pipeline.workers import Crew
from halve.schemes.statistics import Statistics
from halve.transforms import TRANSFORMS
from tiny import folders

TOLERANCE = 1e-5  # of the largest logit; all is in FP32
TOKENS = [7 + 37 * i % 79 for i in range(24)]
# model type -> channels are moved from (norms and producers of a layer), to
EDGES = {
    "llama": {"input_layernorm", "post_attention_layernorm", "v_proj", "up_proj"},
    "qwen2": {"input_layernorm", "post_attention_layernorm", "v_proj", "up_proj"},  # biases
    "gemma": {"input_layernorm", "post_attention_layernorm", "v_proj", "up_proj"},
    "gemma2": {"input_layernorm", "pre_feedforward_layernorm", "v_proj", "up_proj"},
    "gemma3_text": {"input_layernorm", "pre_feedforward_layernorm", "v_proj", "up_proj"},
    "phi3": {"input_layernorm", "post_attention_layernorm", "qkv_proj", "gate_up_proj"},
    "glm4": {"input_layernorm", "post_attention_layernorm", "v_proj", "gate_up_proj"},
}

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own


@pytest.fixture(scope="module")
def build():
    """What makes a tiny model of a type, with random weights."""
    pytest.importorskip("torch", reason="the extra `oracle` is not installed")
    transformers = pytest.importorskip("transformers", reason="the extra `oracle` is not installed")
    transformers.logging.set_verbosity_error()
    return runpy.run_path(str(FOLDER / "generate.py"))["build"]


def lively(model):
    """``model`` with norms, biases and matrices that matter."""
    import torch

    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.eval().parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.rand_like(parameter) * 0.8 - 0.4)
            else:
                parameter.normal_(std=0.2)
    return model


def logits(model):
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([TOKENS])).logits.numpy()


def statistics_of(path, weights):
    """Made-up statistics, with outliers, of the inputs of each fused group."""
    rng = np.random.default_rng(0)
    columns = {fused_group(name): array.shape[1] for name, array in weights.items() if array.ndim == 2}
    file = writer(path, entries(columns, (), hessians=False), Facts("", 1, 1, []))
    for group, size in columns.items():
        amax = np.exp(rng.normal(size=size) * 2).astype(np.float32)
        put(file, group, Statistics(mean_square=amax * amax / 9, amax=amax, hessian=None, count=1))
    file.finish()
    return StatisticsFile(path)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("model_type", EDGES)
def test_a_rewritten_model_computes_what_it_did(build, model_type, transform, tmp_path):
    import torch

    model = lively(build(model_type))
    parameters = dict(model.named_parameters())
    arrays = {name: parameter.detach().numpy() for name, parameter in parameters.items()}
    config = json.loads(model.config.to_json_string())
    tensors = {name: ("F32", array.shape, array.tobytes()) for name, array in arrays.items()}
    before = logits(model)
    with closing(folders.write(tmp_path / "source", config, tensors)) as checkpoint:
        statistics = statistics_of(tmp_path / "stats.safetensors", arrays)
        job = make_plan(checkpoint, "fp8_dynamic", algorithm="rtn", statistics=statistics, transforms=(transform,))
        folding = fold(checkpoint, statistics, job, Crew(1))
        producers = [name for name in (*folding.norms, *folding.rows) if name.endswith(".weight")]
        through = {name for name in EDGES[model_type] if name.endswith("norm") or transform == "awq"}
        assert {name.split(".")[-2] for name in producers} == through
        edges = arch.of(config).edges(checkpoint.tensors)
        assert len(producers) == sum(edge.producer.split(".")[-2] in through for edge in edges)
        changed = Folded(checkpoint, folding)
        for name in folding.tensors:
            with torch.no_grad():
                was = parameters[name].clone()
                parameters[name].copy_(torch.from_numpy(read_array(changed, name)))
                assert transform == "awq" or (parameters[name] != was).any(), name  # which may leave an edge alone
    np.testing.assert_allclose(logits(model), before, rtol=0, atol=TOLERANCE * np.abs(before).max())
