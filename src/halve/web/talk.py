"""Data of the page Talk: the models, and one prompt answered by several of them at once."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from halve.errors import HalveError
from halve.runtime.language_model import LanguageModel
from halve.runtime.model import Model
from halve.runtime.packed.model import PackedModel
from halve.schemes import Block, find
from halve.serve import openai
from halve.serve.answer import Answer, StreamResponse
from halve.serve.app import Server
from halve.serve.job import End, Failed, Job, Piece
from halve.serve.scheduler import Scheduler
from halve.web.failure import failure, said

router = APIRouter(prefix="/talk")

_TOGETHER = 4  # models that answer at once
_Name = Annotated[openai.Text, Field(max_length=1024)]


class Question(BaseModel):
    """One prompt for several models; all draw with the same seed."""

    model_config = ConfigDict(allow_inf_nan=False)

    models: Annotated[list[_Name], Field(min_length=1, max_length=_TOGETHER)]
    prompt: Annotated[openai.Text, Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] = 128
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0


@router.get("/models")
def models(request: Request) -> list[dict[str, Any]]:
    """The models of this server, what their weights are and how many bytes they take."""
    loaded = _server(request).scheduler.models
    return [{"name": name, "engine": model.engine, **_weights(model)} for name, model in loaded.items()]


@router.post("", response_model=None)
async def talk(question: Question, request: Request) -> Response:
    """Server-sent events: pieces of each model's answer, with its tokens, seconds and bytes."""
    server = _server(request)
    jobs: dict[str, Job] = {}
    refused: dict[str, HalveError] = {}
    for name in dict.fromkeys(question.models):
        asked = openai.ChatRequest(
            model=name,
            messages=[openai.Message(role="user", content=question.prompt)],
            max_tokens=question.max_tokens,
            temperature=question.temperature,
            seed=question.seed,
        )
        try:
            job = await server.chat_job(asked, request)
            server.scheduler.models[name].check_length(len(job.prompt) + 1)
        except HalveError as error:
            refused[name] = error
        else:
            jobs[name] = job
    if not jobs:
        raise next(iter(refused.values()))
    comparison = Comparison(server.scheduler, list(jobs.values()), refused)
    comparison.start()
    return StreamResponse(comparison, failure)


class Comparison(Answer):
    """Answers of several models to one prompt. What one of them cannot do is said, and does not end the others."""

    def __init__(self, scheduler: Scheduler, jobs: Sequence[Job], refused: Mapping[str, HalveError]) -> None:
        super().__init__(scheduler, jobs, chat=True)
        self._refused = refused

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The JSON objects of a stream: ``text`` that was added, ``end`` or ``error``, and counts so far."""
        for name, error in self._refused.items():
            yield {"model": name, "error": said(error)}
        left = len(self.jobs)
        while left:
            index, event = await self._events.get()
            left -= not isinstance(event, Piece)
            counts = {"model": self.jobs[index].model, **self._counts(index)}
            match event:
                case Piece(text):
                    yield counts | {"text": text}
                case End(reason):
                    yield counts | {"end": reason}
                case Failed(error):
                    yield counts | {"error": said(error)}

    def _counts(self, index: int) -> dict[str, Any]:
        """Tokens so far, the seconds of the steps after the first of them, the bytes of the cache."""
        running = self._running[index]
        return {
            "prompt_tokens": len(running.job.prompt),
            "tokens": running.new_tokens,
            "seconds": running.step_seconds,
            "cache_bytes": running.cache_bytes,
        }


def _server(request: Request) -> Server:
    server: Server = request.app.state.server
    return server


def _weights(model: LanguageModel[Any]) -> dict[str, Any]:
    if isinstance(model, PackedModel):
        return {"weights": _scheme(model.blocks), "weight_bytes": model.packed_bytes}
    assert isinstance(model, Model)  # noqa: S101 - there is no third path
    return {"weights": "fp32", "weight_bytes": sum(array.nbytes for array in model.parameters.values())}


def _scheme(blocks: Mapping[str, Block]) -> str:
    """What most of the weights are."""
    block = Counter(blocks.values()).most_common(1)[0][0]
    return find(block).name or block.element
