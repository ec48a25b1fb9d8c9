"""How far a model's distribution moves when one fused group of its layers is quantized and the others are as they were.

The errors of layers' outputs do not tell: how much of an error reaches the logits differs a hundredfold from layer to
layer. A backward pass tells (Fisher information, extras/torch_stats.py); where none was run, this measures.
"""

from collections.abc import Mapping

import numpy as np

from halve.checkpoint.place import Place
from halve.evaluate import builtin, passages
from halve.evaluate.scores import score
from halve.runtime.linear import Array
from halve.runtime.load import load

WINDOW = 256  # tokens of each text by which candidates are picked, too; the second half is scored


class Sensitivity:
    """The model at ``path``, whole and in float32, and its logits on a few hundred tokens.

    Raises UnsupportedError for an architecture that halve does not run, CheckpointError where the tokenizer is missing.
    """

    def __init__(self, path: Place) -> None:
        self._model = load(path)
        window, tokenizer = min(WINDOW, self._model.context), self._model.tokenizer
        self._passages = [
            passage
            for text in builtin.builtin("pick")
            for passage in passages.cut(text, tokenizer, windows=1, window=window)
        ]
        self._base = [self._model.logits(passage.inputs, start=passage.start) for passage in self._passages]

    def divergence(self, weights: Mapping[str, Array]) -> float | None:
        """The mean KL divergence, nats a token, from the model to the same with other ``weights`` by module.

        None for modules that are no layers of their own, such as a head that is the embedding.
        """
        linears = self._model.linears
        if any(module not in linears or linears[module].tied for module in weights):
            return None
        before = {module: linears[module].weight.copy() for module in weights}
        self._put(weights)
        found = []
        for passage, base in zip(self._passages, self._base, strict=True):
            logits = self._model.logits(passage.inputs, start=passage.start)
            compared = score(logits, passage.targets, base).base
            assert compared is not None  # noqa: S101 - it was given
            found.append(compared.kld)
        self._put(before)
        return float(np.concatenate(found).mean())

    def _put(self, weights: Mapping[str, Array]) -> None:
        for module, weight in weights.items():
            self._model.linears[module].weight[:] = weight
