"""Text that halve brings along or finds in Python itself, of several kinds, for calibration and for choosing.

A quantizer calibrated on one kind of text is worse on all others; one calibrated on three is hardly worse on any. The
two parts of a kind share nothing, and neither shares anything with the first 70 kB of `halve.evaluate.text.default`.
"""

import platform
from importlib.resources import files
from typing import Literal

from halve.errors import UnsupportedError
from halve.evaluate.text import Text, read

Part = Literal["calibrate", "pick"]

LICENCES = {"reference": "PSF-2.0", "code": "PSF-2.0", "prose": "CC0-1.0"}  # kind -> what its text may be used under
_TOPICS: dict[Part, tuple[str, str]] = {"calibrate": ("string-methods", "zzz"), "pick": ("operator", "specialo")}
_MODULES: dict[Part, tuple[str, ...]] = {
    "calibrate": ("heapq", "csv", "smtplib", "wave"),
    "pick": ("fractions", "calendar", "textwrap"),
}


def builtin(part: Part) -> list[Text]:
    """The texts of ``part``, one a kind: Python's reference, Python's own source code, and a novel.

    The first two change a little with every release of Python, which therefore stands in their names. A Python without
    its source files gives two kinds.
    """
    return [text for text in (_reference(part), _code(part), _prose(part)) if text.content]


def _reference(part: Part) -> Text:
    """Paragraphs of some topics that stand in no topic before them: many are printed several times."""
    from pydoc_data.topics import topics  # noqa: PLC0415 - half a megabyte

    first, last = _TOPICS[part]
    seen: set[str] = set()
    kept = []
    for name, text in sorted(topics.items()):
        paragraphs = [paragraph.strip("\n") for paragraph in text.split("\n\n")]
        if first <= name < last:
            kept += [paragraph for paragraph in paragraphs if _key(paragraph) not in seen]
        seen.update(map(_key, paragraphs))
    return Text(f"reference: pydoc_data.topics of Python {platform.python_version()}, {part}", "\n\n".join(kept))


def _key(paragraph: str) -> str:
    return "".join(paragraph.split())


def _code(part: Part) -> Text:
    import inspect  # noqa: PLC0415 - only here
    from importlib import import_module  # noqa: PLC0415

    try:
        content = "\n".join(inspect.getsource(import_module(name)) for name in _MODULES[part])
    except OSError:
        content = ""
    return Text(f"code: {', '.join(_MODULES[part])} of Python {platform.python_version()}", content)


def _prose(part: Part) -> Text:
    name = f"moby_dick_{part}.txt"
    return Text(f"prose: {name} of halve", (files("halve.evaluate") / "data" / name).read_text(encoding="utf-8"))


def named(names: tuple[str, ...], part: Part) -> list[Text]:
    """The texts that a user names: ``builtin``, or paths of UTF-8 files.

    Raises UnsupportedError for a file that is missing, empty or not text.
    """
    texts = [text for name in names for text in (builtin(part) if name == "builtin" else [read(name)])]
    for text in texts:
        if not text.content.strip():
            raise UnsupportedError(f"{text.name} is empty", hint="give a file of plain text, or say builtin")
    return texts
