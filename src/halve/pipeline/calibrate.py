"""Gather the statistics of a model's activations, one decoder layer in memory at a time."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from html import escape
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from halve.checkpoint.base import Checkpoint
from halve.checkpoint.place import Place
from halve.checkpoint.source import open_checkpoint
from halve.errors import UnsupportedError
from halve.evaluate import builtin, passages
from halve.evaluate.passages import Passage
from halve.models.fused import fused_group
from halve.models.linear import why_kept
from halve.pipeline import statistics
from halve.pipeline.memory import Memory
from halve.pipeline.spill import Spilled, States, each, put_all
from halve.pipeline.workers import threads_available
from halve.runtime.linear import Array
from halve.runtime.load import Loader
from halve.runtime.model import Model
from halve.runtime.text import Tokenizer
from halve.schemes.statistics import Statistics

WINDOWS = 8  # of each text
WINDOW = 512
_FILLING = 20 << 20  # bytes of a thread that reads and dequantizes a million weights at a time
_BLAS = 64 << 20

Progress = Callable[[str, int, int], object]  # what is being done, how many layers are done, of how many


@dataclass(frozen=True, slots=True)
class CalibrateResult:
    """What `calibrate` wrote."""

    path: Path
    layers: int
    groups: int
    unreached: tuple[str, ...]  # modules of experts that were chosen for no token of the texts
    hessians: bool
    facts: statistics.Facts
    bytes: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "path": str(self.path),
            "layers": self.layers,
            "groups": self.groups,
            "unreached": list(self.unreached),
            "hessians": self.hessians,
            "tokens": self.facts.tokens,
            "texts": self.facts.texts,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
        }

    def facts_told(self) -> list[tuple[str, str]]:
        """What to tell, a line each."""
        unreached = [("never reached", _by_layer(self.unreached))] if self.unreached else []
        return [
            ("written", f"{self.path}, {self.bytes:,} bytes"),
            ("layers", f"{self.layers}, with {self.groups} inputs of linear layers"),
            *unreached,
            ("texts", "; ".join(f"{text['name']} ({text['tokens']} tokens)" for text in self.facts.texts)),
            ("time", f"{self.seconds:.1f} s, {self.facts.tokens / self.seconds:.0f} tokens/s (reference path)"),
        ]

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(told)}</td></tr>" for name, told in self.facts_told())
        return f"<table>{rows}</table>"


def _by_layer(experts: Iterable[str]) -> str:
    """``experts``, those of a layer together."""
    numbers: dict[str, list[str]] = {}
    for expert in experts:
        parent, _, number = expert.rpartition(".")
        numbers.setdefault(parent, []).append(number)
    return "; ".join(f"{parent} {', '.join(of_it)}" for parent, of_it in numbers.items())


class _Moments:
    """Sums over the inputs of one fused group."""

    def __init__(self, columns: int, *, hessian: bool) -> None:
        self.squares = np.zeros(columns, np.float64)
        self.amax = np.zeros(columns, np.float32)
        self.products = np.zeros((columns, columns), np.float32) if hessian else None
        self.count = 0

    def add(self, inputs: Array) -> None:
        self.squares += np.einsum("ti,ti->i", inputs, inputs, dtype=np.float64)
        np.maximum(self.amax, np.abs(inputs).max(0), out=self.amax)
        if self.products is not None:
            self.products += inputs.T @ inputs
        self.count += len(inputs)

    def statistics(self) -> Statistics:
        """Means; all zero where there were no inputs, which is what `Calibration` takes for an unreached layer."""
        count = max(self.count, 1)
        hessian = None if self.products is None else self.products / np.float32(count)
        return Statistics((self.squares / count).astype(np.float32), self.amax, hessian, self.count)


def calibrate(
    source: str | Place | Checkpoint,
    out: str | Path,
    *,
    texts: Sequence[str] = ("builtin",),
    windows: int = WINDOWS,
    window: int = WINDOW,
    hessians: bool = True,
    threads: int | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> CalibrateResult:
    """Run the model ``source`` over ``texts`` and write what its linear layers are fed into the file ``out``.

    ``texts`` are paths of UTF-8 files, or ``builtin`` for three kinds of text; of each the first ``windows`` windows of
    ``window`` tokens are read. ``hessians`` adds the matrices that gptq needs: 4 bytes for every pair of inputs.
    Experts that no token came to get statistics of zeros, which quantizers take for none, and the result names them.
    Memory is one decoder layer in FP32, its statistics, and the hidden states of the text; the last wait on the disk of
    ``out`` where ``memory``, the most bytes that the whole process may take, has no room for them.

    Raises UnsupportedError for an architecture that halve does not run and for texts that are too short, LimitError for
    less ``memory`` than a layer takes, OutputError where ``out`` exists, CheckpointError for a damaged model.
    """
    began = perf_counter()
    out = Path(out)
    with ExitStack() as stack:
        checkpoint = source
        if isinstance(checkpoint, str | Place):
            checkpoint = stack.enter_context(closing(open_checkpoint(checkpoint)))
        loader = Loader(checkpoint)
        cut = _cut(checkpoint.path, checkpoint.auxiliary(), texts, windows, window)
        geometry = loader.decoder.geometry
        layers, columns = geometry.layers, _columns(loader)
        shapes = [(len(passage.tokens), geometry.hidden) for passage in cut]
        states: States = [np.empty((0, 0), np.float32)] * len(cut)
        if _spills(Memory(memory), loader, columns, shapes, threads or threads_available(), hessians=hessians):
            states = stack.enter_context(Spilled(out.parent, shapes))
        put_all(states, (loader.embed(passage.tokens) for passage in cut))
        tokens = sum(len(passage.tokens) for passage in cut)
        facts = statistics.Facts(statistics.fingerprint(checkpoint), tokens, window, _told(cut))
        attentions = dict.fromkeys(group.rpartition(".")[0] for group in columns if group.endswith(".qkv_proj"))
        unreached: dict[str, None] = {}  # in order
        file = statistics.writer(out, statistics.entries(columns, attentions, hessians=hessians), facts)
        try:
            for index in range(layers):
                if progress is not None:
                    progress("calibrating", index, layers)
                moments, kv_amax = _layer(loader.layer(index, threads), states, hessian=hessians)
                for group in list(moments):
                    of_inputs = moments.pop(group)  # no two layers' at a time
                    statistics.put(file, group, of_inputs.statistics())
                    if not of_inputs.count:
                        unreached[group.rpartition(".")[0]] = None
                for attention, amax in kv_amax.items():
                    file.write(f"{attention}.kv_amax", 0, amax.data)
            file.finish()
        except BaseException:
            file.discard()
            raise
    if progress is not None:
        progress("calibrating", layers, layers)
    size = out.stat().st_size
    seconds = perf_counter() - began
    return CalibrateResult(out, layers, len(columns), tuple(unreached), hessians, facts, size, seconds)


def _cut(path: Place, files: dict[str, bytes], names: Sequence[str], windows: int, window: int) -> list[Passage]:
    if windows < 1 or window < passages.SMALLEST:
        raise UnsupportedError(
            f"{windows} windows of {window} tokens", hint=f"at least one window, of {passages.SMALLEST} tokens or more"
        )
    tokenizer = Tokenizer(path, files)
    texts = builtin.named(tuple(names), "calibrate")
    return [p for text in texts for p in passages.cut(text, tokenizer, windows=windows, window=window)]


def _told(cut: Sequence[Passage]) -> list[dict[str, Any]]:
    texts = {passage.text.name: passage.text for passage in cut}
    return [
        {"name": name, "sha256": text.sha256, "tokens": sum(len(p.tokens) for p in cut if p.text is text)}
        for name, text in texts.items()
    ]


def _columns(loader: Loader) -> dict[str, int]:
    """Fused groups of all decoder layers, and how many inputs they have."""
    return {
        fused_group(parameter.name): parameter.shape[1]
        for parameter in loader.decoder.geometry.each_parameter()
        if parameter.kind == "linear"
    }


def _spills(
    memory: Memory,
    loader: Loader,
    columns: Mapping[str, int],
    shapes: Sequence[tuple[int, int]],
    threads: int,
    *,
    hessians: bool,
) -> bool:
    """Whether hidden states of ``shapes`` must wait on the disk. Raises LimitError where a layer does not fit."""
    geometry, longest = loader.decoder.geometry, max(rows for rows, _ in shapes)
    inner = max(geometry.intermediate, geometry.experts.intermediate if geometry.experts else 0)
    heads = geometry.heads + 2 * geometry.kv_heads
    passage = (
        4 * longest * (8 * geometry.hidden + 4 * inner + 4 * heads * geometry.head_dim + 4 * geometry.heads * longest)
    )
    layers = {
        index: 4 * sum(parameter.count for parameter in geometry.layer_parameters(index))
        + _squares([size for group, size in columns.items() if group.startswith(f"model.layers.{index}.")]) * hessians
        for index in range(geometry.layers)
    }
    largest = max(layers, key=lambda index: layers[index])
    needed = layers[largest] + passage + threads * _FILLING + _BLAS
    memory.require(
        needed,
        f"calibrating decoder layer {largest}",
        "no Hessians: --no-hessians, or --algorithm hessian_diag" if hessians else "",
    )
    return memory.left(needed) < sum(4 * rows * hidden for rows, hidden in shapes)


def _squares(sizes: Sequence[int]) -> int:
    """Bytes of the Hessians of groups of so many inputs; the largest of them with a product, and with its mean."""
    return 4 * (sum(size**2 for size in sizes) + 2 * max(sizes, default=0) ** 2)


def _layer(model: Model, states: States, *, hessian: bool) -> tuple[dict[str, _Moments], dict[str, Array]]:
    """Run one decoder layer over all ``states``, which become its outputs.

    Moments of the inputs of its fused groups, and the largest key and value of its attention.
    """
    owners: dict[str, tuple[str, int]] = {}
    for name, linear in model.linears.items():
        if not why_kept(f"{name}.weight", 2):  # a router, which nobody quantizes
            owners.setdefault(fused_group(name), (name, linear.weight.shape[1]))
    moments = {group: _Moments(size, hessian=hessian) for group, (_, size) in owners.items()}
    first = {name: moments[group] for group, (name, _) in owners.items()}

    def observe(name: str, inputs: Array, outputs: Array) -> None:
        del outputs
        if name in first:
            first[name].add(inputs)

    kv_amax: dict[str, Array] = {}

    def observe_kv(name: str, keys: Array, values: Array) -> None:
        amax = np.array([np.abs(keys).max(), np.abs(values).max()], np.float32)
        kv_amax[name] = np.maximum(kv_amax.get(name, amax), amax)

    model.observe, model.observe_kv = observe, observe_kv
    for index, state in each(states):
        states[index] = model.decode(state)
    return moments, kv_amax
