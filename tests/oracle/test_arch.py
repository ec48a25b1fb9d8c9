"""Architectures against transformers' classes: their weights are the golden file's, and factors along edges cancel."""

import runpy

import numpy as np
import pytest

from golden.arch.weights import ARCHITECTURES, FOLDER
from halve.models import arch

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own


@pytest.fixture(scope="module")
def generate():
    """The names of the script that made the golden file."""
    pytest.importorskip("torch", reason="the extra `oracle` is not installed")
    transformers = pytest.importorskip("transformers", reason="the extra `oracle` is not installed")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return runpy.run_path(str(FOLDER / "generate.py"))


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_weights_are_those_of_the_class(generate, model_type):
    assert generate["described"](model_type) == ARCHITECTURES[model_type]


def build(generate, model_type):
    """A model in FP64, whose norms and biases are numbers that matter."""
    import torch

    model = generate["build"](model_type).double().eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or name.endswith("_bias"):
                parameter.add_(torch.rand_like(parameter) * 0.4 - 0.2)
            elif parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return model


def logits(model):
    import torch

    tokens = torch.tensor([[7, 30, 11, 64, 19, 23, 8, 41, 12, 77]])
    with torch.no_grad():
        return model(input_ids=tokens).logits.numpy()


def matrices(model, of):
    """The model's own memory by name, an expert's part by itself."""
    found = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    for stack in of.stacks(found):
        whole = found.pop(stack.tensor)
        whole = whole.swapaxes(1, 2) if stack.transposed else whole
        for expert, matrix in enumerate(whole):
            for part, rows in zip(stack.parts, np.split(matrix, len(stack.parts)), strict=True):
                found[stack.weight(expert, part)] = rows
    return found


def scale(edge, weights, factors):
    """Divide what ``edge`` produces."""
    producer = weights[edge.producer]
    rows = 1 / edge.placed(factors, len(producer)).astype(np.float64)
    if producer.ndim == 1:
        producer[...] = (producer + edge.offset) * rows - edge.offset
    else:
        producer *= rows[:, None]
    if edge.bias:
        weights[edge.bias] *= rows


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_factors_along_edges_cancel(generate, model_type):
    of = arch.of(ARCHITECTURES[model_type]["config"])
    model = build(generate, model_type)
    weights = matrices(model, of)
    edges = of.edges(weights)
    assert edges
    before = logits(model)
    rng = np.random.default_rng(0)
    for edge in edges:
        # powers of two: what they leave is exact, but for where another edge's rounding is
        factors = np.exp2(rng.integers(-1, 2, edge.channels)).astype(np.float32)
        scale(edge, weights, factors)
        changed = logits(model)
        assert not np.allclose(changed, before, atol=1e-6), edge.producer
        for consumer in edge.consumers:
            weights[consumer] *= edge.spread(factors)
        np.testing.assert_allclose(logits(model), before, atol=1e-6 * np.abs(before).max(), err_msg=edge.producer)
