"""The requests of OpenAI's API that are understood, and the shapes of its answers.

Fields that no one here knows are ignored, as other servers do; those that would change the answer are refused.
Source: https://platform.openai.com/docs/api-reference
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from halve.errors import UnsupportedError
from halve.runtime.text import Tokenizer
from halve.serve.job import Scored


def _encodable(text: str) -> str:
    """JSON can spell halves of surrogate pairs, which no tokenizer takes. Raises UnicodeEncodeError, a ValueError."""
    text.encode()
    return text


Text = Annotated[str, AfterValidator(_encodable)]
_Token = Annotated[int, Field(ge=0, lt=1 << 31)]
_Stop = Annotated[Text, Field(min_length=1, max_length=256)]
_Alternatives = Annotated[int, Field(ge=0, le=20)]
_UNSUPPORTED = (
    "tools",
    "functions",
    "response_format",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "suffix",
)


class StreamOptions(BaseModel):
    """How a stream ends."""

    include_usage: bool = False


class Request(BaseModel):
    """What both kinds of completion have."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: Annotated[Text, Field(max_length=1024)]
    max_tokens: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    top_k: Annotated[int, Field(ge=-1, lt=1 << 31)] | None = 0
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=16)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = 1

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def check(self) -> None:
        """Raise UnsupportedError for a field that would change the answer and cannot."""
        wanted = next((name for name in _UNSUPPORTED if (self.model_extra or {}).get(name)), None)
        if wanted == "response_format" and (self.model_extra or {})[wanted] == {"type": "text"}:
            return
        if wanted is not None:
            raise UnsupportedError(f"{wanted} is not supported", hint=f"leave {wanted} out")


class Part(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """One turn of a chat."""

    role: Annotated[Text, Field(max_length=64)]
    content: Text | list[Part]

    def plain(self) -> dict[str, str]:
        """As chat templates want it."""
        content = self.content
        return {"role": self.role, "content": content if isinstance(content, str) else "".join(p.text for p in content)}


class ChatRequest(Request):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    logprobs: bool | None = False
    top_logprobs: _Alternatives | None = None


class CompletionRequest(Request):
    """POST /v1/completions."""

    prompt: Text | list[_Token] | list[Text] | list[list[_Token]]
    logprobs: _Alternatives | None = None
    echo: bool | None = False

    def prompts(self) -> Iterator[str | list[int]]:
        """Each prompt, as text or as tokens."""
        match self.prompt:
            case [int(), *_]:
                yield self.prompt  # type: ignore[misc] # the first is an integer, so all are
            case list():
                yield from self.prompt  # type: ignore[misc]
            case _:
                yield self.prompt


def chat_logprobs(tokenizer: Tokenizer, scored: Sequence[Scored]) -> dict[str, Any]:
    """As chat completions have them."""

    def entry(token: int, logprob: float | None) -> dict[str, Any]:
        text = tokenizer.decode([token])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    return {
        "content": [
            entry(one.token, one.logprob) | {"top_logprobs": [entry(*pair) for pair in one.top]} for one in scored
        ]
    }


def completion_logprobs(tokenizer: Tokenizer, scored: Sequence[Scored], offset: int = 0) -> dict[str, Any]:
    """As completions have them; ``offset`` characters stand before."""
    texts = [tokenizer.decode([one.token]) for one in scored]
    offsets = [offset]
    for text in texts[:-1]:
        offsets.append(offsets[-1] + len(text))
    return {
        "tokens": texts,
        "token_logprobs": [one.logprob for one in scored],
        # Two tokens may have one text, such as halves of characters: the likelier one stays.
        "top_logprobs": [
            None if one.logprob is None else {tokenizer.decode([id_]): logprob for id_, logprob in reversed(one.top)}
            for one in scored
        ],
        "text_offset": offsets[: len(texts)],
    }


def usage(prompt: int, new: int) -> dict[str, int]:
    """Counts of tokens."""
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def error_body(message: str, kind: str, *, code: str | None = None) -> dict[str, Any]:
    """The body of every answer that is an error."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
