"""Architectures against transformers: weights are the golden file's, and factors along edges cancel to the bit."""

import runpy

import numpy as np
import pytest

from golden.arch.weights import ARCHITECTURES, FOLDER
from halve.models import arch

MATTERS = 1e-3  # of the largest logit
TOKENS = [7 + 37 * i % 79 for i in range(48)]  # enough for routers to choose every expert

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own


@pytest.fixture(scope="module")
def generate():
    """The names of the script that made the golden file."""
    torch = pytest.importorskip("torch", reason="the extra `oracle` is not installed")
    transformers = pytest.importorskip("transformers", reason="the extra `oracle` is not installed")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these models are too small for more
    yield runpy.run_path(str(FOLDER / "generate.py"))
    torch.set_num_threads(threads)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_weights_are_those_of_the_class(generate, model_type):
    assert generate["described"](model_type) == ARCHITECTURES[model_type]


def build(generate, model_type):
    """A model whose norms and biases are numbers that matter.

    They have few bits: dividing 1 + weight by a power of two and taking 1 away again is exact, as all other steps are.
    """
    import torch

    model = generate["build"](model_type).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or name.endswith("_bias"):
                parameter.add_(torch.rand_like(parameter) * 0.4 - 0.2).mul_(1024).round_().div_(1024)
            elif parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return model


def logits(model):
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([TOKENS])).logits.numpy()


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
    rows = 1 / edge.placed(factors, len(producer))
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
    largest = np.abs(before).max()
    rng = np.random.default_rng(0)
    for edge in edges:
        factors = np.exp2(rng.integers(-1, 2, edge.channels)).astype(np.float32)
        scale(edge, weights, factors)
        assert np.abs(logits(model) - before).max() > MATTERS * largest, edge.producer
        for consumer in edge.consumers:
            weights[consumer] *= edge.spread(factors)
        np.testing.assert_array_equal(logits(model), before, err_msg=edge.producer)
