"""The committed text that tokenizers are compared on, and how lists of ids are compared without keeping them."""

import hashlib
import json
import lzma
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizer"
EXCERPT = 30_000


def corpus() -> dict[str, str]:
    """About 1 MB: licences, Python's documentation, source code, foreign scripts, a chat with special tokens."""
    texts: dict[str, str] = json.loads(lzma.decompress((GOLDEN / "corpus.json.xz").read_bytes()))
    return texts


def excerpts() -> dict[str, str]:
    """The beginning of each text, and the foreign scripts a second time in normal form C."""
    texts = {name: text[:EXCERPT] for name, text in corpus().items()}
    return texts | {"unicode, NFC": unicodedata.normalize("NFC", texts["unicode"])}


def digest(ids: list[int]) -> dict[str, Any]:
    """What is kept of a list of ids: how many, a hash of them as little-endian int32, and the first."""
    return {"count": len(ids), "sha256": hashlib.sha256(np.array(ids, "<i4").tobytes()).hexdigest(), "first": ids[:24]}
