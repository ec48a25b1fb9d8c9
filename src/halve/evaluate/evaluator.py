"""The job: run checkpoints over texts, beside their base, and sum up what was lost.

Both models are in float32, and passages go through them one at a time, so that memory is two models and the logits of
one window, however long the text.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Self

import numpy as np

from halve.checkpoint.place import Place
from halve.errors import CheckpointError, UnsupportedError
from halve.evaluate import evaluation, operands, passages, subject, text
from halve.evaluate.estimate import Estimate
from halve.evaluate.evaluation import Evaluation, Loss, Sample
from halve.evaluate.layers import layer_losses
from halve.evaluate.operands import WEIGHTS, Operands
from halve.evaluate.passages import Passage
from halve.evaluate.reference import Reference
from halve.evaluate.scores import Scores, score
from halve.evaluate.subject import Subject
from halve.evaluate.text import Text
from halve.runtime.language_model import Array
from halve.runtime.load import load
from halve.runtime.model import Model
from halve.runtime.packed import kernels
from halve.runtime.packed.kernels import Mode
from halve.runtime.packed.load import load as load_packed
from halve.runtime.packed.model import PackedModel

Progress = Callable[[str, int, int], object]  # what is being done, how many windows are done, of how many

WINDOWS = 32
WINDOW = 512
PROMPT = "What is a floating-point number? Answer in one sentence."
SAMPLE_TOKENS = 40
LAYER_PASSAGES = 2  # spread over the texts: a thousand tokens tell a layer's SQNR to a tenth of a dB

_COMPARED = 4096  # characters of each text on which two tokenizers must agree


class Evaluator:
    """Measures checkpoints on the same passages, against the checkpoint ``against``, which is read and run only once.

    ``texts`` are texts or paths of UTF-8 files, by default `halve.evaluate.text.default`; of each, the first
    ``windows`` windows of ``window`` tokens count. Used as a context manager, it removes its temporary file at the end.

    Raises UnsupportedError for numbers and texts that make no sense, and what `halve.runtime.load.load` raises.
    """

    def __init__(
        self,
        against: str | Place | None = None,
        *,
        texts: Iterable[str | Path | Text] = (),
        windows: int = WINDOWS,
        window: int = WINDOW,
        keep: bool = True,
        progress: Progress | None = None,
    ) -> None:
        if windows < 1 or window < passages.SMALLEST:
            raise UnsupportedError(
                f"{windows} windows of {window} tokens",
                hint=f"at least one window, of {passages.SMALLEST} tokens or more",
            )
        self._texts = [t if isinstance(t, Text) else text.read(t) for t in texts] or [text.default()]
        self._windows, self._window = windows, window
        self._progress = progress
        self._reference: Reference | None = None
        self._bytes: int | None = None
        if against is not None:
            self._bytes = subject.describe(against).bytes
            base = load(against)
            self._reference = Reference(base, self._cut(base), keep=keep)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the temporary file."""
        if self._reference is not None:
            self._reference.close()

    def evaluate(
        self,
        path: str | Place,
        *,
        scheme: str | None = None,
        activations: bool = False,
        kv: str | None = None,
        packed: Sequence[Mode] = (),
        prompt: str | None = None,
    ) -> Evaluation:
        """Measure the checkpoint ``path``; the parameters are those of :func:`evaluate`."""
        began = perf_counter()
        found = subject.describe(path)
        fed = operands.resolve(found, scheme, activations=activations, kv=kv)
        if packed:
            kernels.require()
        model = load(path)
        cut = self._check(model)
        if prompt is not None:
            _ = model.tokenizer  # where it is missing, the error comes before the long work
        largest = operands.largest_of(fed)
        started = perf_counter()
        with operands.attached(model, fed.activations, largest):
            scores, base_seconds = self._score(lambda passage: _at_once(model, passage, WEIGHTS), cut, found.label)
        seconds = perf_counter() - started - base_seconds
        losses: list[Loss] = [evaluation.loss(WEIGHTS, cut, scores)]
        quantizers = operands.quantizers(fed, largest)
        if fed != WEIGHTS:
            with operands.attached(model, fed.activations, quantizers):
                faithful, _ = self._score(
                    lambda passage: _at_once(model, passage, fed), cut, f"{found.label}, {fed.short}"
                )
            losses.append(evaluation.loss(fed, cut, faithful))
        losses += [self._decoded(load_packed(path, mode=mode), cut, mode, found.label) for mode in packed]
        reference = self._reference
        return Evaluation(
            path=found.path,
            against=None if reference is None else reference.model.path,
            label=found.label,
            elements=_elements(found, fed),
            bytes=found.bytes,
            against_bytes=self._bytes,
            bpw=found.bpw,
            texts=evaluation.facts(self._texts, cut),
            window=self._window,
            scored=sum(len(p.targets) for p in cut),
            base_ppl=_base_ppl(scores),
            losses=tuple(losses),
            layers=() if reference is None else layer_losses(reference.model, model, _spread(cut), quantizers),
            sample=None if prompt is None else _sample(model, prompt),
            eval_tokens_per_s=sum(len(p.inputs) for p in cut) / seconds,
            seconds=perf_counter() - began,
        )

    def _cut(self, model: Model) -> list[Passage]:
        self._check_context(model)
        tokenizer = model.tokenizer
        cut = (passages.cut(t, tokenizer, windows=self._windows, window=self._window) for t in self._texts)
        return [passage for found in cut for passage in found]

    def _check_context(self, model: Model) -> None:
        if self._window > model.context:
            raise UnsupportedError(
                f"{model.path}: a window of {self._window} tokens is more than the context of {model.context}",
                hint=f"--window {model.context}, or less",
            )

    def _check(self, model: Model) -> Sequence[Passage]:
        """The passages for ``model``. Raises UnsupportedError where it is no relative of the base."""
        if self._reference is None:
            return self._cut(model)
        base = self._reference.model
        if model.vocabulary != base.vocabulary:
            raise UnsupportedError(
                f"{model.path} has a vocabulary of {model.vocabulary} tokens and {base.path} one of {base.vocabulary}: "
                "their distributions cannot be compared",
                hint="give --against the model that it was quantized from",
            )
        shapes = [{name: linear.weight.shape for name, linear in m.linears.items()} for m in (base, model)]
        if shapes[0] != shapes[1]:
            different = min(name for name, _ in shapes[0].items() ^ shapes[1].items())
            raise UnsupportedError(
                f"{model.path} and {base.path} are different models: {different} is not the same in both",
                hint="give --against the model that it was quantized from",
            )
        self._check_context(model)
        for t in self._texts if _has_tokenizer(model) else ():
            ids, expected = (m.tokenizer.encode(t.content[:_COMPARED]).tolist() for m in (model, base))
            if ids != expected:
                raise UnsupportedError(
                    f"the tokenizers of {model.path} and {base.path} split {t.name} differently",
                    hint="copy the tokenizer files of the base, or give --against the model it was quantized from",
                )
        return self._reference.passages

    def _decoded(self, model: PackedModel, cut: Sequence[Passage], mode: Mode, label: str) -> Loss:
        fed = Operands(packed=mode)
        scores, _ = self._score(lambda passage: _token_by_token(model, passage), cut, f"{label}, {fed.short}")
        return evaluation.loss(fed, cut, scores)

    def _score(
        self, logits: Callable[[Passage], Array], cut: Sequence[Passage], action: str
    ) -> tuple[list[Scores], float]:
        """Scores of all passages, and how many seconds of it were the base's."""
        scores, base_seconds = [], 0.0
        for index, passage in enumerate(cut):
            if self._progress is not None:
                self._progress(action, index, len(cut))
            began = perf_counter()
            base = None if self._reference is None else self._reference[index]
            base_seconds += perf_counter() - began
            scores.append(score(logits(passage), passage.targets, base))
        if self._progress is not None:
            self._progress(action, len(cut), len(cut))
        return scores, base_seconds


def evaluate(
    path: str | Place,
    *,
    against: str | Place | None = None,
    texts: Iterable[str | Path | Text] = (),
    windows: int = WINDOWS,
    window: int = WINDOW,
    scheme: str | None = None,
    activations: bool = False,
    kv: str | None = None,
    packed: Sequence[Mode] = (),
    prompt: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure the checkpoint ``path`` (folder, GGUF file or ``org/name[@revision]``): perplexity and, against the
    checkpoint ``against``, KL divergence, share of equal top tokens, and the loss of every layer.

    ``texts`` are texts or UTF-8 files, by default Python's own documentation; the second half of each of the first
    ``windows`` windows of ``window`` tokens is scored. ``activations`` and ``kv="fp8"`` add a second measurement in
    which the quantized layers are fed activations rounded as ``scheme`` (by default the checkpoint's own) says, and
    attention a rounded cache; products are accumulated in float32. Each mode of ``packed`` adds one by the kernels of
    `halve run --act`, which reads the second half of a window token by token. With ``prompt`` the model also answers
    that.
    ``progress`` is called with what is being done, and how many windows of how many are.

    Raises UnsupportedError for an unknown architecture, a text shorter than a window, two models that do not compare,
    and activations of which nothing is known; CheckpointError for damaged or missing files, and where a layer's outputs
    are not finite, naming the first.
    """  # noqa: D205 - the summary does not fit on a line
    with Evaluator(against, texts=texts, windows=windows, window=window, keep=False, progress=progress) as evaluator:
        return evaluator.evaluate(path, scheme=scheme, activations=activations, kv=kv, packed=packed, prompt=prompt)


def _at_once(model: Model, passage: Passage, fed: Operands) -> Array:
    cache = None if fed.kv is None else model.new_cache(operands.kv_store(fed))
    return model.logits(passage.inputs, cache, start=passage.start)


def _token_by_token(model: PackedModel, passage: Passage) -> Array:
    """The first half is a prompt, the second is fed as an answer is written: decoding has kernels of its own."""
    cache, inputs = model.new_cache(), passage.inputs
    model.logits(inputs[: passage.start], cache, start=passage.start)
    return np.concatenate([model.logits(inputs[i : i + 1], cache) for i in range(passage.start, len(inputs))])


def _has_tokenizer(model: Model) -> bool:
    try:
        return model.tokenizer.size > 0
    except CheckpointError:
        return False


def _base_ppl(scores: Sequence[Scores]) -> Estimate | None:
    nll = [float(s.base.nll.mean()) for s in scores if s.base is not None]
    return Estimate.of(nll).exp() if nll else None


def _spread(cut: Sequence[Passage]) -> Sequence[Passage]:
    """A few passages, evenly from all."""
    return cut[:: -(-len(cut) // LAYER_PASSAGES)]


def _elements(found: Subject, fed: Operands) -> tuple[str, ...]:
    blocks = [*(layer.scheme.weight for layer in found.quantized.values()), *fed.activations.values()]
    names = [name for block in blocks for name in (block.element, block.scale) if name]
    return tuple(dict.fromkeys([*(names or [found.element]), *([fed.kv.name] if fed.kv else [])]))


def _sample(model: Model, prompt: str) -> Sample:
    written = model.generate(prompt, max_tokens=SAMPLE_TOKENS)
    return Sample(prompt, written.text, written.statistics.tokens_per_s)
