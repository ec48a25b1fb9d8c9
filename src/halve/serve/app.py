"""The HTTP application: routes of OpenAI's API, health and metrics."""

import asyncio
import secrets
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from halve.errors import BusyError, ExpiredError, HalveError, UnknownNameError, UnsupportedError
from halve.runtime.language_model import LanguageModel
from halve.runtime.sample import Sampling
from halve.serve import openai
from halve.serve.answer import Answer, StreamResponse, WholeResponse
from halve.serve.guard import Guard
from halve.serve.job import Job
from halve.serve.limits import Limits
from halve.serve.metrics import Metrics
from halve.serve.scheduler import Scheduler

_DEFAULT_COMPLETION = 16  # tokens, where a completion does not say; OpenAI's default


class Server:
    """Models by name behind OpenAI's API. ``app`` is the ASGI application; `close` ends the scheduler's thread.

    ``local`` refuses requests that call the server by another name than this machine's own.
    """

    def __init__(
        self,
        models: Mapping[str, LanguageModel[Any]],
        *,
        limits: Limits | None = None,
        api_key: str | None = None,
        local: bool = True,
    ) -> None:
        for model in models.values():
            _ = model.tokenizer  # a server without one is of no use: say so now
        self.limits, self.local = limits or Limits(), local
        self.metrics = Metrics()
        self.scheduler = Scheduler(models, self.limits, self.metrics)
        self._created = int(time.time())
        self.api = self._application()
        self.app = Guard(self.api, limits=self.limits, api_key=api_key, local=local)

    def close(self) -> None:
        """Fail what is under way and end."""
        self.scheduler.close()

    def _application(self) -> FastAPI:
        api = FastAPI(title="halve", docs_url=None, redoc_url=None)  # the pages of both load scripts from elsewhere
        api.get("/health")(self._health)
        api.get("/metrics")(self._metrics)
        api.get("/v1/models")(self._models)
        api.get("/v1/models/{name:path}")(self._model)
        api.post("/v1/chat/completions", response_model=None)(self._chat)
        api.post("/v1/completions", response_model=None)(self._completions)
        api.exception_handler(HalveError)(lambda _, error: failure(error))
        api.exception_handler(RequestValidationError)(lambda _, error: _invalid(error))
        api.exception_handler(HTTPException)(lambda _, error: _refused(error))
        return api

    async def _health(self) -> JSONResponse:
        alive = self.scheduler.alive
        return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)

    async def _metrics(self) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _models(self) -> dict[str, Any]:
        return {"object": "list", "data": [self._card(name) for name in self.scheduler.models]}

    async def _model(self, name: str) -> dict[str, Any]:
        self._named(name)
        return self._card(name)

    def _card(self, name: str) -> dict[str, Any]:
        model = self.scheduler.models[name]
        about = {"max_model_len": model.context, "engine": model.engine}
        return {"id": name, "object": "model", "created": self._created, "owned_by": "halve", **about}

    async def _chat(self, asked: openai.ChatRequest, request: Request) -> Response:
        return self._respond(asked, [await self.chat_job(asked, request)], chat=True, echo=())

    async def chat_job(self, asked: openai.ChatRequest, request: Request) -> Job:
        """What ``asked`` is for the scheduler. Raises UnsupportedError, UnknownNameError."""
        asked.check()
        model = self._named(asked.model)
        # Templates and tokenizers take their time, and have none of their own to give to others.
        prompt = await asyncio.to_thread(_chat_prompt, model, [message.plain() for message in asked.messages])
        alternatives = (asked.top_logprobs or 0) if asked.logprobs else None
        wanted = asked.max_completion_tokens or asked.max_tokens
        return self._job(asked, request, prompt, max_tokens=self._bounded(wanted, model, prompt), scored=alternatives)

    async def _completions(self, asked: openai.CompletionRequest, request: Request) -> Response:
        asked.check()
        model = self._named(asked.model)
        prompts = list(asked.prompts())
        if not 0 < len(prompts) <= self.limits.prompts:
            raise UnsupportedError(
                f"{len(prompts)} prompts in one request", hint=f"give 1 to {self.limits.prompts} of them"
            )
        ids = await asyncio.to_thread(lambda: [_completion_prompt(model, prompt) for prompt in prompts])
        wanted = _DEFAULT_COMPLETION if asked.max_tokens is None else asked.max_tokens
        if not wanted and not asked.echo:
            raise UnsupportedError("max_tokens = 0 without echo answers nothing", hint="say 1 or more, or echo")
        scored = asked.logprobs
        jobs = [
            self._job(asked, request, one, max_tokens=self._bounded(wanted, model, one), scored=scored) for one in ids
        ]
        echo = []
        if asked.echo:
            texts = zip(prompts, ids, strict=True)
            echo = [prompt if isinstance(prompt, str) else model.tokenizer.decode(one) for prompt, one in texts]
        return self._respond(asked, jobs, chat=False, echo=echo)

    def _named(self, name: str) -> LanguageModel[Any]:
        if name not in self.scheduler.models:
            raise UnknownNameError("model", name, list(self.scheduler.models))
        return self.scheduler.models[name]

    def _bounded(self, wanted: int | None, model: LanguageModel[Any], prompt: Any) -> int:
        """``max_tokens`` within what the server gives and the context holds."""
        room = max(model.context - len(prompt), 1)  # one too many is refused when it is submitted
        largest = min(self.limits.max_tokens, room)
        return largest if wanted is None else min(wanted, largest)

    def _job(self, asked: openai.Request, request: Request, prompt: Any, *, max_tokens: int, scored: int | None) -> Job:
        if not len(prompt):
            raise UnsupportedError("the prompt has no tokens", hint="say something")
        sampling = Sampling(
            temperature=1.0 if asked.temperature is None else asked.temperature,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            top_k=max(asked.top_k or 0, 0),  # other servers' -1 is our 0: all tokens
            seed=secrets.randbits(63) if asked.seed is None else asked.seed % (1 << 63),
        )
        return Job(
            model=asked.model,
            prompt=prompt,
            sampling=sampling,
            max_tokens=max_tokens,
            stop=asked.stops,
            alternatives=scored,
            score_prompt=isinstance(asked, openai.CompletionRequest) and bool(asked.echo),
            client=request.client.host if request.client else "",
        )

    def _respond(self, asked: openai.Request, jobs: list[Job], *, chat: bool, echo: list[str] | tuple[()]) -> Response:
        counted = bool(asked.stream_options and asked.stream_options.include_usage)
        answer = Answer(self.scheduler, jobs, chat=chat, echo=echo, usage=counted)
        answer.start()
        return (StreamResponse if asked.stream else WholeResponse)(answer, failure)


def _chat_prompt(model: LanguageModel[Any], messages: list[dict[str, str]]) -> Any:
    if not model.chat.available:
        return model.tokenizer.encode("\n".join(message["content"] for message in messages))
    try:
        text = model.chat.render(messages)
    except HalveError as error:  # a template that wants other roles: it is the messages that are wrong
        raise UnsupportedError(str(error), hint="roles take turns: system, user, assistant, user") from None
    return model.tokenizer.encode(text, special=False)


def _completion_prompt(model: LanguageModel[Any], prompt: str | list[int]) -> Any:
    if isinstance(prompt, str):
        return model.tokenizer.encode(prompt)
    outside = next((token for token in prompt if token >= model.vocabulary), None)
    if outside is not None:
        raise UnsupportedError(
            f"token {outside} is outside the vocabulary of {model.vocabulary}", hint="use this model's tokenizer"
        )
    return np.array(prompt, np.int64)


def failure(error: HalveError) -> JSONResponse:
    """An error as OpenAI's clients expect it."""
    message = f"{error}; {error.hint}" if error.hint else str(error)
    match error:
        case UnknownNameError():
            return JSONResponse(openai.error_body(message, "invalid_request_error", code="model_not_found"), 404)
        case BusyError():
            return JSONResponse(openai.error_body(message, "rate_limit_error"), 429, {"retry-after": "1"})
        case ExpiredError():
            return JSONResponse(openai.error_body(message, "timeout"), 408)
        case UnsupportedError():
            return JSONResponse(openai.error_body(message, "invalid_request_error"), 400)
        case _:
            return JSONResponse(openai.error_body(message, "server_error"), 500)


def _invalid(error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    named = [str(part) for part in first["loc"][1:]]
    where = ".".join(part for part in named if "[" not in part) or "body"  # pydantic names its validators there, too
    return JSONResponse(openai.error_body(f"{where}: {first['msg']}"[:1000], "invalid_request_error"), 400)


def _refused(error: HTTPException) -> JSONResponse:
    body = openai.error_body(str(error.detail), "invalid_request_error")
    return JSONResponse(body, error.status_code, dict(error.headers or {}))
