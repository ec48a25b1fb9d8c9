"""From tokenizer.json and its companions to the tokenizer of a GGUF file: the inverse of `tokenizer`.

Byte-level BPE becomes llama.cpp's `gpt2`, whose way to split text has a name; SentencePiece BPE with bytes as fallback
becomes `llama`, in which a score orders the merges. What would give other ids is refused. Two differences stay, which
llama.cpp has from every converter: it never normalizes text (Qwen's is NFC), and after a special token it puts a space
wherever it puts one at the beginning.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from halve.checkpoint.gguf_writer import Value
from halve.checkpoint.pretokenizers import PRETOKENIZERS
from halve.document import json_object
from halve.errors import CheckpointError, UnsupportedError

logger = logging.getLogger("halve")

TOKENIZER = "tokenizer.json"
_OTHERS = ("tokenizer.model", "spiece.model", "tekken.json", "vocab.json", "vocab.txt")  # of tokenizers without it
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)  # llama.h, llama_token_type
_SPACE = "\u2581"  # SentencePiece's visible space
_BYTES = {f"<0x{byte:02X}>" for byte in range(256)}
SURROGATE = re.compile("[\ud800-\udfff]")
_LAST = -1e6  # the score of what no merge makes
_GPT2 = PRETOKENIZERS["gpt-2"].patterns[0]  # what a ByteLevel step splits by unless it says otherwise
_KEYS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}

_AGAIN = "the tokenizer files are damaged or not one model's: fetch them again"
_ELSEWHERE = "llama.cpp's own convert_hf_to_gguf.py may know it; --layout compressed-tensors takes every tokenizer"


def tokenizer_metadata(files: Mapping[str, bytes], config: Mapping[str, Any], vocab: int) -> dict[str, Value]:
    """The keys ``tokenizer.*`` for a model whose embedding has ``vocab`` rows.

    ``files`` are the tokenizer files: name -> content. Without any, llama.cpp loads a model that takes ids only. Raises
    UnsupportedError for a tokenizer that llama.cpp has not, CheckpointError for files that contradict each other.
    """
    if TOKENIZER not in files:
        if found := [name for name in _OTHERS if name in files]:
            raise UnsupportedError(
                f"halve makes a GGUF tokenizer of {TOKENIZER} only, and there is {found[0]}",
                hint="AutoTokenizer.from_pretrained(PATH).save_pretrained(PATH) of transformers writes it",
            )
        return {"tokenizer.ggml.model": "none"}
    source = _Tokenizer(files)
    tokens, types = _tokens(source, vocab)
    ids = {token: id_ for id_, token in enumerate(tokens)}
    pairs = _byte_level(source) if source.byte_level else _sentencepiece(source, tokens, types)
    values: dict[str, Value] = {
        **pairs,
        "tokens": tokens,
        "token_type": np.array(types, np.int32),
        **_merges(source),
        **_special(source, config, ids),
    }
    metadata = {f"tokenizer.ggml.{key}": value for key, value in values.items()} | _templates(source)
    for key, value in metadata.items():
        texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        if any(SURROGATE.search(text) for text in texts):
            raise CheckpointError(f"{key} would hold half of a character", hint=_AGAIN)
    return metadata


class _Tokenizer:
    """The files, read without trust."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files
        self.content = self.json(TOKENIZER)
        self.config = self.json("tokenizer_config.json")
        model = self.content.get("model")
        self.model: dict[str, Any] = model if isinstance(model, dict) else {}
        kind = self.model.get("type")
        if kind != "BPE":
            raise UnsupportedError(f"{TOKENIZER}: llama.cpp has no tokenizer of type {kind!r} here", hint=_ELSEWHERE)
        self.steps = list(_flat(self.content.get("pre_tokenizer"), "pretokenizers"))
        self.normalizers = list(_flat(self.content.get("normalizer"), "normalizers"))
        self.byte_level = any(step.get("type") == "ByteLevel" for step in self.steps)
        if any(self.model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")):
            raise _refused("merges with dropout, prefixes or suffixes")

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file; empty where it is not there."""
        if name not in self.files:
            return {}
        return json_object(self.files[name], name, hint=_AGAIN)


def _refused(what: str) -> UnsupportedError:
    """The error for what llama.cpp has no word for."""
    return UnsupportedError(f"{TOKENIZER}: llama.cpp has no {what}", hint=_ELSEWHERE)


def _damaged(why: str) -> CheckpointError:
    """The error for what makes no sense."""
    return CheckpointError(f"{TOKENIZER}: {why}", hint=_AGAIN)


def _listed(value: object, name: str) -> list[Any]:
    if not isinstance(value, list | None):
        raise _damaged(f"{name} is no list")
    return value or []


def _flat(step: Any, members: str) -> Iterator[dict[str, Any]]:
    """The steps of a pre-tokenizer or normalizer, sequences opened."""
    match step:
        case None:
            return
        case {"type": "Sequence"}:
            for member in _listed(step.get(members), members):
                yield from _flat(member, members)
        case {"type": str()}:
            yield step
        case _:
            raise CheckpointError(f"{TOKENIZER}: {str(step)[:80]} is no step of a tokenizer", hint=_AGAIN)


@dataclass(frozen=True, slots=True)
class _Added:
    """A token that is found in text before it is split."""

    id: int
    content: str
    special: bool


def _added(source: _Tokenizer) -> list[_Added]:
    found = []
    for entry in _listed(source.content.get("added_tokens"), "added_tokens"):
        match entry:
            case {"id": int(id_), "content": str(content), "special": bool(special)} if content:
                found.append(_Added(id_, content, special))
            case _:
                raise _damaged(f"{str(entry)[:80]} is no added token")
        if entry.get("lstrip") or entry.get("rstrip") or entry.get("single_word"):
            logger.warning("llama.cpp does not strip spaces around %r, nor look for whole words", entry["content"])
    return found


def _tokens(source: _Tokenizer, vocab: int) -> tuple[list[str], list[int]]:
    """Text and type of all tokens, by id; ids without a token get a name of their own, as converters do."""
    added = _added(source)
    names = _names(source) | {token.id: token.content for token in added}
    if min(names) < 0 or max(names) >= vocab:
        raise _damaged(f"ids go from {min(names)} to {max(names)}, and the embedding has {vocab} rows")
    tokens = [names.get(id_, f"[PAD{id_}]") for id_ in range(vocab)]
    if len(set(tokens)) != vocab:
        raise _damaged(f"token {Counter(tokens).most_common(1)[0][0]!r} has two ids")
    types = [_UNUSED if token == f"[PAD{id_}]" else _NORMAL for id_, token in enumerate(tokens)]
    for token in added:
        types[token.id] = _CONTROL if token.special else _USER_DEFINED
    if not source.byte_level:
        unknown = source.model.get("unk_token")
        for id_, text in enumerate(tokens):
            if text == unknown or text in _BYTES:
                types[id_] = _UNKNOWN if text == unknown else _BYTE
            elif types[id_] == _USER_DEFINED:
                tokens[id_] = text.replace(_SPACE, " ")  # llama.cpp looks for it in text as it came
    return tokens, types


def _names(source: _Tokenizer) -> dict[int, str]:
    """The vocabulary before tokens are added: id -> text."""
    known = source.model.get("vocab")
    if not isinstance(known, dict) or not known:
        raise _damaged("there is no vocabulary")
    names: dict[int, str] = {}
    for token, id_ in known.items():
        if type(id_) is not int or names.setdefault(id_, token) != token:
            raise _damaged(f"token {token!r} has the id {id_!r}, which is no number of its own")
    return names


def _byte_level(source: _Tokenizer) -> dict[str, Value]:
    """How text is split, by the name that llama.cpp has for it."""
    patterns = tuple(_patterns(source))
    form = {"": ""} | {step["type"]: step["type"] for step in source.normalizers}
    normalization = " ".join(form.values()).strip()
    ignore_merges = bool(source.model.get("ignore_merges"))
    for name, row in PRETOKENIZERS.items():
        if (row.patterns, row.normalization, row.ignore_merges) == (patterns, normalization, ignore_merges):
            return {"model": "gpt2", "pre": name, "add_space_prefix": False}
    raise _refused(
        f"name for this way to split text: {' then '.join(patterns)!r}"
        + (f" of {normalization} text" if normalization else "")
        + (", words that are tokens taken whole" if ignore_merges else "")
    )


def _patterns(source: _Tokenizer) -> Iterator[str]:
    """The regular expressions that split text, one after another, each isolating what it matches."""
    covering = len(source.steps) == 2  # a single expression, then bytes: its matches are the whole text
    for step in source.steps:
        match step:
            case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}:
                yield pattern
            case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Removed", "invert": True} if (
                covering
            ):
                yield pattern
            case {"type": "Digits", "individual_digits": bool(single)}:
                yield r"\p{N}" if single else r"\p{N}+"
            case {"type": "ByteLevel", "add_prefix_space": False, **rest}:
                if rest.get("use_regex", True):
                    yield _GPT2
            case _:
                said = ", ".join(f"{key} {value!r:.40}" for key, value in step.items() if key != "pattern")
                raise _refused(f"name for this way to split text: {said}")


def _sentencepiece(source: _Tokenizer, tokens: list[str], types: list[int]) -> dict[str, Value]:
    """Scores that order the merges as they are ordered in tokenizer.json."""
    if not source.model.get("byte_fallback") or not set(tokens) >= _BYTES:
        raise _refused("tokenizer of words, or of SentencePiece without bytes as fallback")
    prefix = _space_prefix(source)
    pieces = [left + right for left, right in _pairs(source)]
    ranked = [piece for piece, _ in groupby(pieces)]
    ids = {token: id_ for id_, token in enumerate(tokens)}
    if len(set(ranked)) != len(ranked) or not set(ranked) <= ids.keys():
        raise _refused("merges in this order: SentencePiece has all merges that make a piece side by side")
    scores = np.array([_LAST if kind in (_NORMAL, _UNUSED, _USER_DEFINED) else 0 for kind in types], np.float32)
    scores[[ids[piece] for piece in ranked]] = -np.arange(len(ranked), dtype=np.float32)
    merges = set(_pairs(source))
    for token, kind in zip(tokens, types, strict=True):
        if kind != _NORMAL:
            continue
        for at in range(1, len(token)):
            pair = token[:at], token[at:]
            if pair[0] in ids and pair[1] in ids and pair not in merges:
                raise _refused(f"way to keep {pair[0]!r} and {pair[1]!r} apart, which tokenizer.json does not merge")
    return {"model": "llama", "pre": "default", "add_space_prefix": prefix, "scores": scores}


def _space_prefix(source: _Tokenizer) -> bool:
    """Whether a space comes before text. Raises for normalizers that do anything but make spaces visible."""
    visible = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    match source.normalizers, source.steps:
        case [{"type": "Prepend", "prepend": prepend}, replace], [] if prepend == _SPACE and replace == visible:
            return True
        case [replace], [] if replace == visible:
            return False
        case [], [{"type": "Metaspace", "replacement": replacement, **rest}] if (
            replacement == _SPACE and rest.get("split", True) is False
        ):
            scheme = rest.get("prepend_scheme", "always" if rest.get("add_prefix_space", True) else "never")
            return bool(scheme != "never")
    kinds = [step["type"] for step in (*source.normalizers, *source.steps)]
    raise _refused(f"tokenizer of SentencePiece with these steps before it: {', '.join(kinds) or 'none'}")


def _pairs(source: _Tokenizer) -> Iterator[tuple[str, str]]:
    """The merges, which are written in two ways."""
    for merge in _listed(source.model.get("merges"), "merges"):
        match merge:
            case str() if " " in merge[1:]:
                left, _, right = merge[1:].partition(" ")  # the first character may itself be a space
                yield merge[0] + left, right
            case [str(left), str(right)]:
                yield left, right
            case _:
                raise _damaged(f"{str(merge)[:80]!r} is no merge")


def _merges(source: _Tokenizer) -> dict[str, Value]:
    return {"merges": [" ".join(pair) for pair in _pairs(source)]} if source.byte_level else {}


def _special(source: _Tokenizer, config: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, Value]:
    """Ids of the special tokens, and which of them frame a text."""
    named = source.json("special_tokens_map.json") | source.config
    values: dict[str, Value] = {}
    for role, key in _KEYS.items():
        id_: int | None = _id(named.get(f"{role}_token"), ids)
        if id_ is None:
            id_ = _first(config.get(f"{role}_token_id"), len(ids))
        if id_ is None and role == "unk":
            id_ = _id(source.model.get("unk_token"), ids)
        if id_ is not None:
            values[f"{key}_token_id"] = id_
    ends = source.json("generation_config.json").get("eos_token_id", config.get("eos_token_id"))
    if isinstance(ends, list):
        known = {values.get("eos_token_id"), None}
        others = [id_ for id_ in ends if not isinstance(id_, list) and _first(id_, len(ids)) not in known]
        values |= {f"{key}_token_id": id_ for key, id_ in zip(("eot", "eom"), others, strict=False)}
    framed = _framed(source)
    for role in ("bos", "eos"):
        mine = values.get(f"{role}_token_id")
        if framed is None:
            wanted = source.config.get(f"add_{role}_token") is True and mine is not None
        else:
            wanted = mine in {ids.get(token) for token in framed[role]} - {None}
        values[f"add_{role}_token"] = wanted
    return values


def _id(token: Any, ids: Mapping[str, int]) -> int | None:
    """The id of a token that is named by its text, or by an object that holds it."""
    content = token.get("content") if isinstance(token, dict) else token
    return ids.get(content) if isinstance(content, str) else None


def _first(value: Any, vocab: int) -> int | None:
    """An id of config.json, the first of several."""
    if isinstance(value, list):
        value = value[0] if value else None
    return value if type(value) is int and 0 <= value < vocab else None


def _framed(source: _Tokenizer) -> dict[str, list[str]] | None:
    """Tokens that the post-processor puts before a text (bos) and after it (eos); None where it is not asked."""
    framed = None
    for step in _flat(source.content.get("post_processor"), "processors"):
        match step:
            case {"type": "ByteLevel"}:
                continue
            case {"type": "TemplateProcessing", "single": list(single)} if framed is None:
                framed = {"bos": list[str](), "eos": list[str]()}
                place = "bos"
                for part in single:
                    match part:
                        case {"Sequence": _}:
                            place = "eos"
                        case {"SpecialToken": {"id": str(token)}}:
                            framed[place].append(token)
            case _:
                raise _refused(f"post-processor like {step['type']}")
    return framed


def _templates(source: _Tokenizer) -> dict[str, Value]:
    """Chat templates: the default one, and others by name."""
    key = "tokenizer.chat_template"
    found = source.config.get("chat_template") or source.json("chat_template.json").get("chat_template")
    if "chat_template.jinja" in source.files:
        try:
            found = source.files["chat_template.jinja"].decode()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"chat_template.jinja: invalid UTF-8 at byte {error.start}", hint=_AGAIN) from None
    if isinstance(found, str):
        return {key: found}
    named = {}
    for entry in found if isinstance(found, list) else ():
        match entry:
            case {"name": str(name), "template": str(template)}:
                named[name] = template
    others = {name: template for name, template in named.items() if name != "default"}
    values: dict[str, Value] = {key: named["default"]} if "default" in named else {}
    if others:
        values["tokenizer.chat_templates"] = list(others)
    return values | {f"{key}.{name}": template for name, template in others.items()}
