"""From a request to its answer: jobs submitted, their events gathered or streamed, and cancelled with the client."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from fastapi.responses import Response

from halve.errors import HalveError
from halve.runtime.text import Tokenizer
from halve.serve import openai
from halve.serve.guard import Receive, Scope, Send
from halve.serve.job import End, Event, Failed, Job, Piece
from halve.serve.scheduler import Scheduler
from halve.serve.sequence import Sequence as Running


class Answer:
    """The answers to ``jobs``, in the shape of a chat or of completions. Events come from `events`, once."""

    def __init__(
        self, scheduler: Scheduler, jobs: Sequence[Job], *, chat: bool, echo: Sequence[str] = (), usage: bool = False
    ) -> None:
        self.jobs, self.chat, self._usage = jobs, chat, usage
        self._echo = echo or [""] * len(jobs)
        self._offsets = [0] * len(jobs)  # characters before the next piece
        self._scheduler = scheduler
        self._tokenizer: Tokenizer = scheduler.models[jobs[0].model].tokenizer
        self._id = ("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12)
        self._created = int(time.time())
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._running: list[Running] = []

    def start(self) -> None:
        """Submit the jobs, all or none. Raises what `Scheduler.submit` raises."""
        loop = asyncio.get_running_loop()

        def receiver(index: int) -> Callable[[Event], None]:
            def receive(event: Event) -> None:
                with suppress(RuntimeError):  # the loop has been closed: nobody listens any more
                    loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

            return receive

        try:
            for index, job in enumerate(self.jobs):
                self._running.append(self._scheduler.submit(job, receiver(index)))
        except HalveError:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Let the scheduler forget what is under way."""
        for sequence in self._running:
            self._scheduler.cancel(sequence)

    async def events(self) -> AsyncIterator[tuple[int, Piece | End]]:
        """Job's number and event, until all have ended. Raises the error of the first that failed."""
        left = len(self.jobs)
        while left:
            index, event = await self._events.get()
            if isinstance(event, Failed):
                raise event.error
            left -= isinstance(event, End)
            yield index, event

    async def whole(self) -> dict[str, Any]:
        """One JSON object."""
        choices: list[dict[str, Any]] = [{} for _ in self.jobs]
        texts = list(self._echo)
        scored: list[list[Any]] = [[] for _ in self.jobs]
        new = 0
        async for index, event in self.events():
            if isinstance(event, End):
                new += event.new_tokens
                choices[index] = {"index": index, "finish_reason": event.reason, "logprobs": None}
                continue
            scored[index] += event.scored
            texts[index] += event.text
        for choice, job, text, found in zip(choices, self.jobs, texts, scored, strict=True):
            if self.chat:
                choice["message"] = {"role": "assistant", "content": text}
            else:
                choice["text"] = text
            if job.alternatives is not None:
                choice["logprobs"] = self._logprobs(found, 0)
        return self._envelope(choices, "chat.completion" if self.chat else "text_completion") | {
            "usage": self._count(new)
        }

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The JSON objects of a stream."""
        new = 0
        for index, text in enumerate(self._echo):
            if self.chat or text:
                yield self._chunk(index, {"role": "assistant", "content": ""} if self.chat else text)
        async for index, event in self.events():
            if isinstance(event, End):
                new += event.new_tokens
                yield self._chunk(index, {} if self.chat else "", reason=event.reason)
                continue
            logprobs = None
            if self.jobs[index].alternatives is not None:
                logprobs = self._logprobs(event.scored, self._offsets[index])
                self._offsets[index] += sum(len(self._tokenizer.decode([one.token])) for one in event.scored)
            yield self._chunk(index, {"content": event.text} if self.chat else event.text, logprobs=logprobs)
        if self._usage:
            yield self._envelope([], self._chunk_object) | {"usage": self._count(new)}

    @property
    def _chunk_object(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _chunk(self, index: int, delta: Any, *, logprobs: Any = None, reason: str | None = None) -> dict[str, Any]:
        choice = {"index": index, "delta" if self.chat else "text": delta, "logprobs": logprobs}
        return self._envelope([choice | {"finish_reason": reason}], self._chunk_object)

    def _logprobs(self, scored: Sequence[Any], offset: int) -> dict[str, Any]:
        if self.chat:
            return openai.chat_logprobs(self._tokenizer, scored)
        return openai.completion_logprobs(self._tokenizer, scored, offset)

    def _count(self, new: int) -> dict[str, int]:
        return openai.usage(sum(len(job.prompt) for job in self.jobs), new)

    def _envelope(self, choices: list[dict[str, Any]], kind: str) -> dict[str, Any]:
        model = self.jobs[0].model
        return {"id": self._id, "object": kind, "created": self._created, "model": model, "choices": choices}


class WholeResponse(Response):
    """An answer as one JSON object, once it is there."""

    def __init__(self, answer: Answer, failure: Callable[[HalveError], Response]) -> None:
        super().__init__()
        self._answer, self._failure = answer, failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Compute and send; stop when the client has gone."""

        async def run() -> None:
            try:
                content = json.dumps(await self._answer.whole(), ensure_ascii=False).encode()
                response = Response(content, media_type="application/json")
            except HalveError as error:
                response = self._failure(error)
            await response(scope, receive, send)

        await _while_connected(self._answer, receive, run)


class StreamResponse(Response):
    """The `chunks` of an answer as server-sent events; an error that comes after the beginning is one of them."""

    def __init__(self, answer: Answer, failure: Callable[[HalveError], Response]) -> None:
        super().__init__()
        self._answer, self._failure = answer, failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Compute and send; stop when the client has gone."""
        del scope

        async def say(data: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": more})

        async def run() -> None:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            try:
                async for chunk in self._answer.chunks():
                    await say(json.dumps(chunk, ensure_ascii=False).encode())
            except HalveError as error:
                await say(bytes(self._failure(error).body))
            await say(b"[DONE]", more=False)

        await _while_connected(self._answer, receive, run)


async def _while_connected(answer: Answer, receive: Receive, run: Callable[[], Awaitable[None]]) -> None:
    """Run until done, until the client goes away, or until it has been too slow to read."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(run()), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            with suppress(TimeoutError, OSError):
                tasks[0].result()
    finally:
        answer.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
