"""halve's reference runtime as an engine serves a checkpoint: what the answers of clients are compared with.

How far an engine's logits may be from ours, as the root mean square of their difference, is measured: NOISE times the
noise. BF16 alone moves those of SmolLM2 by BF16. And quantized activations amplify any difference, however small, until
it is as large as their own rounding noise, because a rounding that flips changes all that follows: `bound` lets ours be
off by one part in a million, and sees how far they move.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from halve.evaluate import subject
from halve.runtime.linear import Array
from halve.runtime.model import Model
from halve.schemes import Block
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import dequantize, quantize

BF16 = 0.16  # of an unquantized SmolLM2: what transformers_generate.py prints as `transformers_generate_bf16`
NOISE = 2.0

Tokens = NDArray[np.int64]
Quantizer = Callable[[Block, Array], QTensor]


def quantize_inputs(model: Model, quantizer: Quantizer = quantize) -> None:
    """Let the layers of ``model`` round their inputs where the checkpoint's schemes say so.

    ``quantizer`` chooses codes and scales, a token at a time (dynamic activations); the product is of the values that
    they stand for, in float32. All else of the model is in float32 too.
    """
    layers = subject.describe(model.path).quantized
    blocks = {module: layer.scheme.activation for module, layer in layers.items() if layer.scheme.activation}
    roundings = {block: partial(_rounded, quantizer, block) for block in blocks.values()}
    for module, block in blocks.items():
        model.linears[module].activation = roundings[block]


def _rounded(quantizer: Quantizer, block: Block, inputs: Array) -> Array:
    return dequantize(quantizer(block, inputs))


def logits(model: Model, windows: Sequence[Tokens]) -> Array:
    """Logits [tokens, vocabulary] after each token, all tokens before it in its window given."""
    return np.concatenate([model.logits(window) for window in windows])


def above(ours: Array, tokens: Tokens) -> Array:
    """How far our likeliest token is above each of ``tokens`` in logits [tokens, vocabulary]; 0 where it is that."""
    ahead: Array = ours.max(-1) - np.take_along_axis(ours, tokens[:, None], -1)[:, 0]
    return ahead


def distance(ours: Array, theirs: Array) -> float:
    """The root mean square of the difference of logits."""
    return float(np.sqrt(np.square(ours - theirs).mean()))


def bound(model: Model, windows: Sequence[Tokens]) -> float:
    """How far the logits of an engine in BF16 may be from those of ``model``, see above."""
    before = logits(model, windows)
    embedding = model.parameters[model.embedding]
    kept = embedding.copy()
    embedding *= 1 + np.float32(1e-6) * np.random.default_rng(0).standard_normal(embedding.shape, np.float32)
    moved = distance(before, logits(model, windows))
    embedding[:] = kept
    return NOISE * max(BF16, moved)
