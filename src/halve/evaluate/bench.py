"""How fast a packed model reads a prompt and writes, beside how fast this machine's memory can be read."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from time import perf_counter
from typing import Any, ClassVar

import numpy as np

from halve.errors import UnsupportedError
from halve.runtime.packed import kernels
from halve.runtime.packed.arena import Arena
from halve.runtime.packed.cache import Kv
from halve.runtime.packed.kernels import Mode
from halve.runtime.packed.load import load
from halve.runtime.packed.model import PackedModel

Watch = Callable[[str, int, int], object]

_PIECE = 1 << 18  # what native code reads at a time
_READ_BYTES = 512 << 20  # several times any processor's cache
_READ_PASSES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One row. ``test`` is pp (prompt processing) or tg (text generation) and how many tokens, as llama-bench says.

    ``read_rate`` is the memory's, in bytes a second by as many threads, measured beside the row; ``bytes_per_token``
    are the weights that a token of tg reads, of experts those that it takes.
    """

    test: str
    tokens: int
    threads: int
    seconds: tuple[float, ...]
    bytes_per_token: int | None
    read_rate: float

    @property
    def tokens_per_s(self) -> float:
        """Mean over the runs."""
        return fmean(self.tokens / seconds for seconds in self.seconds)

    @property
    def deviation(self) -> float:
        """Standard deviation of tokens per second over the runs; 0 for a single one."""
        return stdev(self.tokens / seconds for seconds in self.seconds) if len(self.seconds) > 1 else 0.0

    @property
    def used(self) -> float | None:
        """Part of the read rate that the weights alone take; None where weights are not read for every token."""
        return None if self.bytes_per_token is None else self.bytes_per_token * self.tokens_per_s / self.read_rate

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values: bytes, seconds, bytes a second."""
        return {
            "test": self.test,
            "tokens": self.tokens,
            "threads": self.threads,
            "seconds": list(self.seconds),
            "tokens_per_s": self.tokens_per_s,
            "deviation": self.deviation,
            "bytes_per_token": self.bytes_per_token,
            "read_bytes_per_second": self.read_rate,
            "read_used": self.used,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What `halve bench` reports."""

    model: str
    nbytes: int  # of all packed weights
    parameters: int
    isa: str
    mode: Mode
    kv: Kv
    speeds: tuple[Speed, ...]

    columns: ClassVar[tuple[str, ...]] = (
        *("model", "size", "params", "isa", "act", "kv", "threads", "test", "t/s"),
        *("weights GB/s", "memory GB/s", "used"),
    )

    def rows(self) -> Iterator[tuple[str | int | None, ...]]:
        """The cells of `columns`, a row for each speed."""
        size = f"{self.nbytes / 2**30:.2f} GiB"
        about = self.model, size, f"{self.parameters / 1e6:.2f} M", self.isa, self.mode, self.kv
        for speed in self.speeds:
            rate = None if speed.bytes_per_token is None else f"{speed.bytes_per_token * speed.tokens_per_s / 1e9:.1f}"
            used = None if speed.used is None else f"{speed.used:.0%}"
            tokens_per_s = f"{speed.tokens_per_s:.2f} ± {speed.deviation:.2f}"
            yield (*about, speed.threads, speed.test, tokens_per_s, rate, f"{speed.read_rate / 1e9:.1f}", used)

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "model": self.model,
            "bytes": self.nbytes,
            "parameters": self.parameters,
            "isa": self.isa,
            "activations": self.mode,
            "kv": self.kv,
            "speeds": [speed.to_json() for speed in self.speeds],
        }


def bench(
    path: str | Path,
    *,
    prompt: int = 512,
    generate: int = 128,
    threads: Sequence[int] = (),
    mode: Mode = "bf16",
    kv: Kv = "fp16",
    repetitions: int = 5,
    watch: Watch | None = None,
) -> Bench:
    """Time a prompt of ``prompt`` tokens and ``generate`` tokens written one by one (0: leave that out).

    Tokens are random, as llama-bench's are. ``threads`` are numbers of threads (none: all cores), each a pair of rows;
    each row is the mean of ``repetitions`` after a first run that does not count. ``watch`` is called before each row.

    Raises what `halve.runtime.packed.load` raises, UnsupportedError for more tokens than the context holds.
    """
    counts = tuple(threads) or (kernels.cores(),)
    rows: list[Speed] = []
    model = load(path, mode=mode, kv=kv, threads=counts[0])
    tests = [(kind, tokens) for kind, tokens in (("pp", prompt), ("tg", generate)) if tokens]
    if not tests:
        raise UnsupportedError("nothing to time", hint="give -p or -n a number of tokens")
    for _, tokens in tests:
        model.check_length(tokens)
    for count in counts:
        model.use(kernels.pool(count))
        for kind, tokens in tests:
            if watch is not None:
                watch(f"{kind}{tokens}, {count} threads", len(rows), len(tests) * len(counts))
            run = _read_prompt if kind == "pp" else _generate
            seconds = [run(model, tokens) for _ in range(repetitions + 1)][1:]
            rows.append(
                Speed(
                    test=f"{kind}{tokens}",
                    tokens=tokens,
                    threads=count,
                    seconds=tuple(seconds),
                    bytes_per_token=model.nbytes if kind == "tg" else None,
                    read_rate=read_rate(count),
                )
            )
    return Bench(
        model=Path(path).name,
        nbytes=model.packed_bytes,
        parameters=model.geometry.count,
        isa=kernels.kernels().isa,
        mode=mode,
        kv=kv,
        speeds=tuple(rows),
    )


def read_rate(threads: int, nbytes: int = _READ_BYTES) -> float:
    """Bytes a second that ``threads`` threads read from ``nbytes`` of memory, in huge pages: the median of a few."""
    arena = Arena(nbytes // _PIECE * _PIECE)
    arena.memory[:] = 1  # untouched pages are all the same one
    pool, native = kernels.pool(threads), kernels.kernels()
    seconds = []
    for _ in range(_READ_PASSES):
        began = perf_counter()
        native.read(pool, arena.memory)
        seconds.append(perf_counter() - began)
    return arena.memory.nbytes / sorted(seconds)[_READ_PASSES // 2]


def _tokens(model: PackedModel, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.random.default_rng(0).integers(0, model.vocabulary, count, dtype=np.int64)


def _read_prompt(model: PackedModel, count: int) -> float:
    tokens, cache = _tokens(model, count), model.new_cache()
    cache.reserve(count)
    began = perf_counter()
    model.logits(tokens, cache, start=count - 1)
    return perf_counter() - began


def _generate(model: PackedModel, count: int) -> float:
    tokens, cache = _tokens(model, count), model.new_cache()
    cache.reserve(count)
    began = perf_counter()
    for index in range(count):
        model.logits(tokens[index : index + 1], cache)
    return perf_counter() - began
