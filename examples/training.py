"""Train one small network in FP32, FP16, BF16, FP8 and NVFP4, and print how each gets on.

    python examples/training.py

The task: tell which of ten classes a teacher network puts a random input in. The student is an MLP of three layers,
trained with Adam. Every matrix product takes operands that were rounded to the format; sums, the
weights that Adam keeps, and the loss are FP32, as mixed precision is done (Micikevicius et al., arXiv 1710.03740).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from halve import formats
from halve.codecs import dispatch
from halve.schemes import SCHEMES
from halve.schemes.quantize import dequantize, quantize

Array = np.ndarray
Round = Callable[[Array, int], Array]  # an operand and a seed -> what is multiplied

INPUTS, HIDDEN, CLASSES = 32, 64, 10
BATCH, STEPS, RATE = 512, 200, 3e-3
TOKENS = 1 << 22  # of a step of a large run, over which its loss is the mean: BATCH of them are one worker's


def exactly(x: Array, _seed: int) -> Array:
    """FP32."""
    return x


def cast_to(name: str) -> Round:
    """Rounded to a format, with no scale."""
    fmt = formats.get(name)
    return lambda x, _seed: dispatch.decode(fmt, dispatch.encode(fmt, x, saturate=False))


def scaled_to(name: str) -> Round:
    """Rounded to a format under the scale that puts the tensor's largest number on the format's."""
    fmt = formats.get(name)

    def rounded(x: Array, _seed: int) -> Array:
        scale = np.float32(np.abs(x).max() / fmt.max) or np.float32(1)
        return dispatch.decode(fmt, dispatch.encode(fmt, x / scale)) * scale

    return rounded


NVFP4 = SCHEMES["nvfp4a16"].weight
FP4, ONE = formats.get("fp4_e2m1"), 2  # the code of 1.0


def nvfp4(x: Array, _seed: int) -> Array:
    """Blocks of 16 along the columns, to nearest."""
    return dequantize(quantize(NVFP4, x))


def nvfp4_stochastic(x: Array, seed: int) -> Array:
    """The same blocks and scales, codes up or down as often as the remainder says."""
    found = quantize(NVFP4, x)
    steps = dequantize(replace(found, codes=np.full_like(found.codes, ONE)))
    x = x / np.where(steps == 0, np.float32(1), steps)
    codes = dispatch.encode(FP4, x, rounding="stochastic", rng=np.random.default_rng(seed))
    return dispatch.decode(FP4, codes) * steps


@dataclass(frozen=True)
class Recipe:
    """How operands are rounded: those of the forward pass, and gradients; the loss is multiplied by ``scale``."""

    name: str
    forward: Round
    backward: Round
    scale: float = 1.0


RECIPES = (
    Recipe("FP32", exactly, exactly),
    Recipe("BF16", cast_to("bf16"), cast_to("bf16")),
    Recipe("FP16", cast_to("fp16"), cast_to("fp16")),
    Recipe("FP16, loss x 2^20", cast_to("fp16"), cast_to("fp16"), 2.0**20),
    Recipe("FP8, no scales", cast_to("fp8_e4m3"), cast_to("fp8_e5m2")),
    Recipe("FP8, a scale a tensor", scaled_to("fp8_e4m3"), scaled_to("fp8_e5m2")),
    Recipe("NVFP4, nearest", nvfp4, nvfp4),
    Recipe("NVFP4, stochastic gradients", nvfp4, nvfp4_stochastic),
)


def layers(random: np.random.Generator) -> list[Array]:
    """Weights [in, out] of three layers."""
    sizes = [INPUTS, HIDDEN, HIDDEN, 16]  # ten classes, padded to a block
    return [(random.standard_normal(pair) / np.sqrt(pair[0])).astype(np.float32) for pair in pairwise(sizes)]


def product(a: Array, b: Array, round_a: Round, round_b: Round, seed: int) -> Array:
    """The product of a and b, both rounded along the columns that are summed over."""
    return round_a(np.ascontiguousarray(a), seed) @ round_b(np.ascontiguousarray(b.T), seed + 1).T


def train(recipe: Recipe, steps: int = STEPS) -> list[float]:
    """Loss after each step on data that is never trained on; NaN once it is lost."""
    random = np.random.default_rng(0)
    teacher = [4 * w for w in layers(random)]
    weights = layers(random)
    moments = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    unseen = random.standard_normal((1024, INPUTS), dtype=np.float32)
    curve = []
    for step in range(1, steps + 1):
        x = random.standard_normal((BATCH, INPUTS), dtype=np.float32)
        gradients = backward(recipe, weights, x, classes(teacher, x), step)
        for i, gradient in enumerate(gradients):
            if not np.isfinite(gradient).all():
                return [*curve, *[float("nan")] * (steps - len(curve))]
            mean, square = (m[i] for m in moments)
            mean += 0.1 * (gradient - mean)
            square += 0.01 * (gradient**2 - square)
            change = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.99**step)) + 1e-20)
            weights[i] = weights[i] - np.float32(RATE) * change
        curve.append(loss(forward(weights, unseen)[-1], classes(teacher, unseen)))
    return curve


def forward(weights: list[Array], x: Array, round_: Round = exactly, seed: int = 0) -> list[Array]:
    """What each layer is fed, then the logits."""
    fed = [x]
    for i, w in enumerate(weights):
        y = product(fed[-1], w, round_, round_, seed + 10 * i)
        fed.append(np.maximum(y, 0) if i < len(weights) - 1 else y)
    return fed


def backward(recipe: Recipe, weights: list[Array], x: Array, labels: Array, step: int) -> list[Array]:
    """The gradient of each weight."""
    seed = 1000 * step
    fed = forward(weights, x, recipe.forward, seed)
    flow = probabilities(fed[-1])
    flow[np.arange(len(labels)), labels] -= 1
    flow *= np.float32(recipe.scale / TOKENS)
    gradients = []
    for i in reversed(range(len(weights))):
        at = seed + 100 * (i + 1)
        gradients.insert(0, product(fed[i].T, flow, recipe.forward, recipe.backward, at) / np.float32(recipe.scale))
        if i:
            flow = product(flow, weights[i].T, recipe.backward, recipe.forward, at + 10) * (fed[i] > 0)
    return gradients


def classes(teacher: list[Array], x: Array) -> Array:
    """The teacher's choice."""
    return forward(teacher, x)[-1][:, :CLASSES].argmax(1)


def probabilities(logits: Array) -> Array:
    """Softmax over the ten classes; the padding has none."""
    z = np.where(np.arange(logits.shape[1]) < CLASSES, logits, -np.inf)
    e = np.exp(z - z.max(1, keepdims=True))
    return (e / e.sum(1, keepdims=True)).astype(np.float32)


def loss(logits: Array, labels: Array) -> float:
    """Mean cross entropy in nats."""
    p = probabilities(logits)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(p, 1e-30)).mean())


def main() -> None:
    """Print a table."""
    marks = (10, 25, 50, 100, STEPS)
    print(f"{'loss after steps':28}", *(f"{mark:>7}" for mark in marks))
    for recipe in RECIPES:
        curve = train(recipe)
        print(f"{recipe.name:28}", *(f"{curve[mark - 1]:7.4f}" for mark in marks))


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        main()
