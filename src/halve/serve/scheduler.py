"""Continuous batching: one thread computes for all; sequences join and leave at every step."""

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter
from typing import Any

from halve.errors import BusyError, ExpiredError, HalveError, UnknownNameError, UnsupportedError
from halve.runtime.language_model import LanguageModel
from halve.serve.job import Event, Job
from halve.serve.limits import Limits
from halve.serve.metrics import Metrics
from halve.serve.sequence import CHUNK, Sequence, step

_log = logging.getLogger("halve")


class Scheduler:
    """Computes sequences of ``models`` by name, within ``limits``. `close` ends its thread.

    Clients take turns to join, whatever number of sequences each has waiting. A step reads one token of every sequence
    that is past its prompt, and of prompts one chunk or as many short ones as make a chunk.
    """

    def __init__(self, models: Mapping[str, LanguageModel[Any]], limits: Limits, metrics: Metrics) -> None:
        self.models = dict(models)
        self.limits = limits
        self._metrics = metrics
        metrics.kv_limit.set(limits.kv_tokens)
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, deque[Sequence]] = OrderedDict()  # by client, the next one first
        self._running: list[Sequence] = []
        self._reserved = 0  # positions of caches
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="halve-scheduler", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether its thread works."""
        return self._thread.is_alive()

    def submit(self, job: Job, receive: Callable[[Event], None]) -> Sequence:
        """Queue ``job``; ``receive`` is called with its events on the scheduler's thread, and must not block.

        Raises UnknownNameError for a model that is not served, UnsupportedError for a job that could never join,
        BusyError where the queue is full.
        """
        if job.model not in self.models:
            raise UnknownNameError("model", job.model, list(self.models))
        model = self.models[job.model]
        model.check_length(len(job.prompt) + bool(job.max_tokens))
        sequence = Sequence(job, model, receive)
        if sequence.reserved > self.limits.kv_tokens:
            raise UnsupportedError(
                f"{sequence.reserved} tokens, prompt and answer, are more than this server's {self.limits.kv_tokens}",
                hint="shorten the prompt, or lower max_tokens",
            )
        with self._changed:
            if sum(map(len, self._waiting.values())) >= self.limits.queued:
                raise BusyError(f"{self.limits.queued} requests are waiting", hint="try again in a moment")
            if self._closed:
                raise BusyError("the server is closing", hint="try again when it is back")
            self._waiting.setdefault(job.client, deque()).append(sequence)
            self._changed.notify()
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Let go of ``sequence`` before the next step; nothing where it has ended."""
        with self._changed:
            sequence.cancelled = True
            self._changed.notify()

    def close(self) -> None:
        """Fail what is under way, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._running or self._closed):
                    self._changed.wait()
                if self._closed:
                    break
                self._drop()
                self._join()
                running = list(self._running)
            self._step(running)
            self._leave()
        error = BusyError("the server is closing", hint="try again when it is back")
        for sequence in [*self._running, *(sequence for queue in self._waiting.values() for sequence in queue)]:
            sequence.fail(error)
            sequence.deliver()

    def _drop(self) -> None:
        """Forget what has been cancelled or has taken too long, running or waiting."""
        oldest = perf_counter() - self.limits.request_seconds
        for client, queue in list(self._waiting.items()):
            for sequence in [one for one in queue if one.cancelled or one.arrived < oldest]:
                queue.remove(sequence)
                self._record(sequence, self._dropped(sequence))
            if not queue:
                del self._waiting[client]
        for sequence in [one for one in self._running if one.cancelled or one.arrived < oldest]:
            self._release(sequence)
            self._record(sequence, self._dropped(sequence))
        self._show()

    def _dropped(self, sequence: Sequence) -> str:
        if sequence.cancelled:
            return "cancelled"
        seconds = self.limits.request_seconds
        sequence.fail(ExpiredError(f"not done within {seconds:g} s", hint="ask for fewer tokens, or when less goes on"))
        sequence.deliver()
        return "expired"

    def _join(self) -> None:
        """Let waiting sequences join, one client after another, while there is room for the next in turn."""
        while self._waiting and len(self._running) < self.limits.running:
            client, queue = next(iter(self._waiting.items()))
            if self._reserved + queue[0].reserved > self.limits.kv_tokens:
                break
            sequence = queue.popleft()
            self._waiting.move_to_end(client)
            if not queue:
                del self._waiting[client]
            self._reserved += sequence.reserved
            self._running.append(sequence)
        self._show()

    def _step(self, running: list[Sequence]) -> None:
        ready: dict[str, list[Sequence]] = {}
        for sequence in running:
            if not sequence.reading:
                ready.setdefault(sequence.job.model, []).append(sequence)
        for group in ready.values():
            self._guarded(group, partial(step, group))
        budget = CHUNK
        for sequence in running:
            if sequence.reading and budget > 0:
                budget -= len(sequence.job.prompt)
                self._guarded([sequence], sequence.read)

    def _guarded(self, group: list[Sequence], compute: Callable[[], None]) -> None:
        """Compute, then say what came of it; what goes wrong ends ``group`` and nobody else."""
        failure: HalveError | None = None
        try:
            compute()
        except HalveError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - logged; others are still served
            _log.exception("serving failed")
            failure = HalveError(f"internal error: {type(error).__name__}", hint="the server's log says more")
        for sequence in group:
            if failure is not None and not sequence.outcome:
                sequence.fail(failure)
            sequence.deliver()

    def _leave(self) -> None:
        for sequence in [one for one in self._running if one.outcome]:
            self._release(sequence)
            self._record(sequence, sequence.outcome)
        self._show()

    def _release(self, sequence: Sequence) -> None:
        """Give back its positions, and the memory of its cache."""
        self._running.remove(sequence)
        self._reserved -= sequence.reserved
        sequence.release()

    def _record(self, sequence: Sequence, outcome: str) -> None:
        name, metrics = sequence.job.model, self._metrics
        metrics.requests.labels(name, outcome).inc()
        metrics.new_tokens.labels(name).inc(sequence.new_tokens)
        if sequence.first is None:
            return
        metrics.prompt_tokens.labels(name).inc(len(sequence.job.prompt))
        metrics.first.labels(name).observe(sequence.first - sequence.arrived)
        if sequence.new_tokens > 1:
            metrics.each.labels(name).observe((perf_counter() - sequence.first) / (sequence.new_tokens - 1))

    def _show(self) -> None:
        self._metrics.queued.set(sum(map(len, self._waiting.values())))
        self._metrics.running.set(len(self._running))
        self._metrics.kv_tokens.set(self._reserved)
