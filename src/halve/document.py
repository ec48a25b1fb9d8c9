"""Texts from users and strangers, read up to a limit, so that 100 GB of text or of brackets are an error, no more."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from halve.errors import CheckpointError

CONFIG_LIMIT = 16 << 20  # bytes of a config.json, a table or a model card; real ones take some kB
TEXT_LIMIT = 256 << 20  # bytes of a text to measure on, a Liberty file, a manifest or a journal: the largest take 50 MB
MOST_CONTAINERS = 1 << 20  # in one JSON file: an empty list takes 64 bytes of memory for three of text

_CHUNK = 1 << 20


def read(path: Path, limit: int) -> bytes:
    """The content of the file ``path``, of at most ``limit`` bytes, whatever kind of file it is.

    Raises OSError where it cannot be read, CheckpointError where it is larger.
    """
    content = bytearray()
    with path.open("rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > limit:
            raise too_large(path, size, limit)
        while chunk := file.read(min(_CHUNK, limit + 1 - len(content))):
            content += chunk
    if len(content) > limit:  # a device has no size, and a file may grow
        raise too_large(path, len(content), limit)
    return bytes(content)


def text(path: Path, limit: int, *, errors: str = "strict") -> str:
    """The UTF-8 text in the file ``path``, its lines ended by newlines only.

    Raises UnicodeDecodeError where it is none, and as `read` does.
    """
    return read(path, limit).decode("utf-8", errors).replace("\r\n", "\n").replace("\r", "\n")


def too_large(where: object, nbytes: int, limit: int) -> CheckpointError:
    """The error for a file, called ``where``, whose ``nbytes`` bytes are more than ``limit``."""
    return CheckpointError(
        f"{where}: {nbytes} bytes, more than the {limit} that such a file may have",
        hint="it is not what it claims to be, or damaged: download or copy it again",
    )


def check_containers(raw: bytes, where: object, *, hint: str) -> None:
    """Raise CheckpointError where JSON ``raw`` has so many lists and objects that they would fill the memory."""
    if (count := raw.count(b"[") + raw.count(b"{")) > MOST_CONTAINERS:
        raise CheckpointError(f"{where}: {count} lists and objects, more than the {MOST_CONTAINERS} allowed", hint=hint)


def json_object(raw: bytes, where: object, *, hint: str) -> dict[str, Any]:
    """The JSON object that ``raw`` is; ``where`` is what errors call it.

    Raises CheckpointError for anything else, for an object with a key twice, and for what would take a hundred times
    its size in memory.
    """
    check_containers(raw, where, hint=hint)
    try:
        content = json.loads(raw.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: not valid JSON: {error}", hint=hint) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{where}: not a JSON object", hint=hint)
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen = Counter(key for key, _ in pairs)  # one pass: an index has as many keys as a stranger likes
        raise ValueError(f"{next(key for key in members if seen[key] > 1)!r} appears twice")
    return members
