"""Two tiny vocabularies, trained once and committed, as the metadata that converters write for them."""

import json
from functools import cache
from typing import Any

from halve.checkpoint.pretokenizers import PRETOKENIZERS
from tiny.corpus import GOLDEN

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def byte_level(pre: str | None = "gpt-2", **changes: Any) -> dict[str, Any]:
    """Metadata of a byte-level BPE vocabulary; ``changes`` replace or (None) remove keys below tokenizer.ggml."""
    content = _trained()["byte_level"]
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    user = ["<tool>", "\n\n\n"]
    tokens = [*control, *content["tokens"], *user]
    return _metadata(
        {
            "model": "gpt2",
            "pre": pre,
            "tokens": tokens,
            "token_type": [CONTROL] * len(control) + [NORMAL] * len(content["tokens"]) + [USER_DEFINED] * len(user),
            "merges": list(content["merges"]),
            "bos_token_id": 1,
            "eos_token_id": 2,
            "unknown_token_id": 0,
            "padding_token_id": 2,
        },
        changes,
    )


def sentencepiece(**changes: Any) -> dict[str, Any]:
    """Metadata of a SentencePiece BPE vocabulary with scores and byte pieces; ``changes`` as in byte_level."""
    content = _trained()["sentencepiece"]
    control = ["<unk>", "<s>", "</s>"]
    pieces, scores = content["pieces"], content["scores"]
    user = ["  ", "    ", "<tool>"]  # converters write user-defined pieces with real spaces
    return _metadata(
        {
            "model": "llama",
            "pre": "default",
            "tokens": [*control, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, *user],
            "scores": [0.0] * (len(control) + 256) + scores + [-1000.0] * len(user),
            "token_type": [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(pieces) + [USER_DEFINED] * 3,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "unknown_token_id": 0,
        },
        changes,
    )


def cases() -> dict[str, dict[str, Any]]:
    """Name -> metadata of every vocabulary that llama.cpp's ids are recorded for."""
    return {
        **{f"byte_level {pre}": byte_level(pre) for pre in PRETOKENIZERS},
        "byte_level unnamed": byte_level(None),
        "byte_level framed": byte_level("gpt-2", add_bos_token=True, add_eos_token=True),
        "sentencepiece": sentencepiece(),
        "sentencepiece bare": sentencepiece(add_space_prefix=False, add_bos_token=False),
        "sentencepiece framed": sentencepiece(add_eos_token=True),
    }


@cache
def _trained() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / "vocabularies.json").read_text(encoding="utf-8"))
    return content


def _metadata(pairs: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {f"tokenizer.ggml.{key}": value for key, value in (pairs | changes).items()}
