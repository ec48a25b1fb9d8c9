"""The chat template of a checkpoint: a program that came with the weights, run where it can do no harm.

jinja2's immutable sandbox keeps it from attributes that lead out and from changing what it is given. It is stopped
after a few seconds, and where it would build something huge: by repetition, powers, padding, or what it writes.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from time import monotonic
from types import FrameType
from typing import Any, NoReturn

from jinja2.exceptions import SecurityError, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from halve.checkpoint.place import Place
from halve.errors import CheckpointError
from halve.runtime.text import json_file, token_text

Message = Mapping[str, Any]  # "role", "content", and what else a template knows

SECONDS = 5.0
CHARACTERS = 16 << 20  # of what a template writes or repeats; the longest contexts take 5 MB
_TEMPLATE_CHARACTERS = 1 << 20  # the longest template in use takes 20 kB
_ROLES = ("bos", "eos", "unk", "pad")
_WIDTHS = frozenset({"center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill"})


class Chat:
    """The chat template among the ``files`` of the checkpoint at ``path``, if there is one."""

    def __init__(self, path: Place, files: Mapping[str, bytes]) -> None:
        self._path = path
        settings = json_file(path, files, "tokenizer_config.json")
        found = settings | json_file(path, files, "special_tokens_map.json")
        self._tokens = {f"{role}_token": token_text(found.get(f"{role}_token")) for role in _ROLES}
        self._source = _source(path, files, settings)

    @property
    def available(self) -> bool:
        """Whether there is a template."""
        return bool(self._source)

    def render(self, messages: Sequence[Message]) -> str:
        """The text that asks the model to answer ``messages``.

        Raises CheckpointError where the template refuses the messages, is wrong, reaches for what it must not have, or
        does not end.
        """
        try:
            if len(self._source) > _TEMPLATE_CHARACTERS:
                raise SecurityError(f"it has {len(self._source)} characters")
            variables = {"messages": messages, "add_generation_prompt": True, "tools": None, "documents": None}
            pieces, size = [], 0
            with _limited_time():
                template = _Sandbox().from_string(self._source)
                for piece in template.generate(**variables, **self._tokens):
                    size += len(piece)
                    _check_size(size)
                    pieces.append(piece)
            return "".join(pieces)
        # What a template does wrong shows as any error of Python's.
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise self._error(f"{type(error).__name__}: {error}") from None
        except (RecursionError, MemoryError, TimeoutError) as error:
            raise self._error(str(error) or type(error).__name__) from None

    def _error(self, why: str) -> CheckpointError:
        return CheckpointError(
            f"{self._path}: the chat template failed: {why}",
            hint="leave it out (--raw; chat=False), or take the template from the original model",
        )


def _source(path: Place, files: Mapping[str, bytes], settings: Mapping[str, Any]) -> str:
    """The template's text: of chat_template.jinja, chat_template.json or tokenizer_config.json, in this order."""
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].decode("utf-8", "replace")
    found = json_file(path, files, "chat_template.json").get("chat_template", settings.get("chat_template"))
    if isinstance(found, list):  # several, by name
        named = [entry for entry in found if isinstance(entry, dict)]
        found = next((entry.get("template") for entry in named if entry.get("name") == "default"), None)
    return found if isinstance(found, str) else ""


class _Sandbox(ImmutableSandboxedEnvironment):
    """What transformers offers to a template, and limits on what grows by one operation."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        for name in ("center", "format", "indent", "wordwrap"):  # each takes a width
            del self.filters[name]
        del self.globals["lipsum"]  # text without end, and nothing else
        self.filters["tojson"] = _to_json
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Refuse repetitions and powers that are huge, and formatting, whose widths may be."""
        if operator == "%" and isinstance(left, str | bytes):
            raise SecurityError("text % values is not allowed")
        if operator == "**":
            _check_size(abs(right) * (left.bit_length() if isinstance(left, int) else 1))
        if operator == "*":
            counts = [(len(a), b) for a, b in ((left, right), (right, left)) if hasattr(a, "__len__")]
            for length, count in counts:
                _check_size(length * count)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> None:
        """No ``text.format`` in disguise: :meth:`is_safe_attribute` refuses it."""
        del value

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Not the methods of text that take a width, either."""
        return super().is_safe_attribute(obj, attr, value) and not (isinstance(obj, str | bytes) and attr in _WIDTHS)


def _check_size(size: float) -> None:
    if size > CHARACTERS:
        raise SecurityError(f"it makes something larger than {CHARACTERS} characters")


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """As transformers writes it: characters as they are, where jinja2 escapes for HTML."""
    del options
    return json.dumps(value, ensure_ascii=False, indent=min(indent, 16) if indent else None)


@contextmanager
def _limited_time() -> Iterator[None]:
    """Stop Python code that runs longer than ``SECONDS``: a template without end is one line after another."""
    end = monotonic() + SECONDS

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        del frame, event, argument
        if monotonic() > end:
            raise TimeoutError(f"it did not end within {SECONDS:g} seconds")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
