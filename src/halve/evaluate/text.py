"""Texts to measure on, and what identifies them."""

import hashlib
import platform
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from halve import document
from halve.errors import UnsupportedError


@dataclass(frozen=True)
class Text:
    """A text: two measurements on it compare where the hashes are equal."""

    name: str
    content: str

    @cached_property
    def sha256(self) -> str:
        """Hash of the text in UTF-8."""
        return hashlib.sha256(self.content.encode()).hexdigest()


def default() -> Text:
    """The topics of Python's ``help()``, by name: English prose and code that every Python brings along.

    They change a little with every release of Python, which therefore stands in the name.
    """
    from pydoc_data.topics import topics  # noqa: PLC0415 - half a megabyte

    content = "\n".join(text for _, text in sorted(topics.items()))
    return Text(f"pydoc_data.topics of Python {platform.python_version()}", content)


def read(path: str | Path) -> Text:
    """The UTF-8 file ``path``. Raises UnsupportedError where it is none, CheckpointError where it is too large."""
    try:
        return Text(Path(path).name, document.text(Path(path), document.TEXT_LIMIT))
    except OSError as error:
        raise UnsupportedError(f"{path}: {error.strerror}", hint="give a file of plain text") from None
    except UnicodeDecodeError as error:
        raise UnsupportedError(
            f"{path} is not text in UTF-8: {error.reason} at byte {error.start}", hint="convert it: iconv -t utf-8"
        ) from None
