"""Tokenizer files rebuilt from GGUF metadata: tokenizer.json, its companions, chat template, generation_config.json.

Two of llama.cpp's tokenizers are known: `gpt2` (byte-level BPE with merges) and `llama` (SentencePiece BPE: a score a
piece, bytes as fallback). The result gives the ids that llama.cpp gives.
"""

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from halve.checkpoint import pretokenizers
from halve.checkpoint.gguf_config import special_token
from halve.checkpoint.gguf_metadata import DAMAGED, Metadata
from halve.errors import CheckpointError, UnsupportedError

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5  # llama.h, llama_token_type
_SPACE = "\u2581"  # SentencePiece's visible space
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_ROLES = ("bos", "eos", "unk", "pad")
_TEMPLATE_TOKEN = re.compile(r"[^\s:$][^\s:]*")  # what a post-processor template can name


def tokenizer_files(metadata: Metadata, vocab: int) -> dict[str, bytes]:
    """Return file name -> content. ``vocab``: rows of the embedding.

    A file without a tokenizer gives generation_config.json alone. Raises UnsupportedError for a tokenizer that cannot
    be rebuilt, CheckpointError for one that contradicts itself.
    """
    files = {"generation_config.json": _json(_generation_config(metadata, vocab))}
    model = metadata.text("tokenizer.ggml.model", "none")
    if model in ("none", "no_vocab"):
        return files
    if model not in ("gpt2", "llama"):
        raise UnsupportedError(
            f"{metadata.path}: tokenizer model {model!r} is not known",
            hint="known: gpt2 (byte-level BPE), llama (SentencePiece BPE); copy tokenizer.json from the original model",
        )
    tokens = _tokens(metadata, vocab)
    types = _types(metadata, len(tokens))
    roles = {role: tokens[id_] for role in _ROLES if (id_ := special_token(metadata, role, len(tokens))) is not None}
    if model == "gpt2":
        tokenizer, add_bos = _byte_level(metadata, tokens)
    else:
        tokenizer, add_bos = _sentencepiece(metadata, tokens, types, roles.setdefault("unk", tokens[0])), True
    added = _added_tokens(metadata, tokens, types)
    tokenizer.add_tokens(list(added.values()))
    frame = {
        "bos": metadata.flag("tokenizer.ggml.add_bos_token", default=add_bos),
        "eos": metadata.flag("tokenizer.ggml.add_eos_token", default=False),
    }
    _add_frame(metadata, tokenizer, roles, frame)
    files["tokenizer.json"] = tokenizer.to_str(pretty=True).encode()
    files["special_tokens_map.json"] = _json({f"{role}_token": token for role, token in roles.items()})
    templates = _chat_templates(metadata)
    if templates.keys() == {"default"}:
        files["chat_template.jinja"] = templates["default"].encode()
    config = {
        # The class that takes tokenizer.json as it stands; LlamaTokenizer and its like rebuild parts of it.
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{role}_token": token for role, token in roles.items()},
        **{f"add_{role}_token": wanted for role, wanted in frame.items()},
        "added_tokens_decoder": {str(id_): _added_token_json(token) for id_, token in added.items()},
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata.integer(f"{metadata.text('general.architecture')}.context_length"),
        **_templates_json(templates),
    }
    files["tokenizer_config.json"] = _json(config)
    return files


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _generation_config(metadata: Metadata, vocab: int) -> dict[str, Any]:
    """Every token that ends a turn is an eos for generation."""
    ends = dict.fromkeys(special_token(metadata, key, vocab) for key in ("eos", "eot", "eom"))
    eos = [id_ for id_ in ends if id_ is not None]
    ids = {
        "bos_token_id": special_token(metadata, "bos", vocab),
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "pad_token_id": special_token(metadata, "pad", vocab),
    }
    return {"_from_model_config": True, **{key: value for key, value in ids.items() if value is not None}}


def _tokens(metadata: Metadata, vocab: int) -> list[str]:
    tokens = metadata.texts("tokenizer.ggml.tokens")
    if not 0 < len(tokens) <= vocab:
        raise CheckpointError(
            f"{metadata.path}: the tokenizer has {len(tokens)} tokens, the embedding {vocab} rows", hint=DAMAGED
        )
    tokens = [token or f"[EMPTY_{id_}]" for id_, token in enumerate(tokens)]  # llama.cpp's name for them
    if len(set(tokens)) != len(tokens):
        token, count = Counter(tokens).most_common(1)[0]
        raise CheckpointError(f"{metadata.path}: token {token!r} appears {count} times", hint=DAMAGED)
    return tokens


def _types(metadata: Metadata, count: int) -> NDArray[np.integer[Any]]:
    return _per_token(metadata, "token_type", count, metadata.integers, np.full(count, _NORMAL))


def _per_token(
    metadata: Metadata, name: str, count: int, read: Callable[[str], NDArray[Any]], default: NDArray[Any]
) -> NDArray[Any]:
    key = f"tokenizer.ggml.{name}"
    values = read(key) if key in metadata else default
    if len(values) != count:
        raise CheckpointError(f"{metadata.path}: {key} has {len(values)} entries for {count} tokens", hint=DAMAGED)
    return values


def _byte_level(metadata: Metadata, tokens: list[str]) -> tuple[Tokenizer, bool]:
    """Build a byte-level BPE tokenizer; the second result says whether bos comes first unless the file says else."""
    row = pretokenizers.get(metadata.text("tokenizer.ggml.pre", "default"), metadata.path)
    ids = {token: id_ for id_, token in enumerate(tokens)}
    merges = [_merge(metadata, merge, ids) for merge in metadata.texts("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=row.ignore_merges))
    if row.normalization:
        tokenizer.normalizer = {"NFC": normalizers.NFC}[row.normalization]()
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in row.patterns]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, row.add_bos


def _merge(metadata: Metadata, merge: str, ids: dict[str, int]) -> tuple[str, str]:
    left, _, right = merge[1:].partition(" ")  # the first character may itself be a space
    left = merge[:1] + left
    if left not in ids or right not in ids or left + right not in ids:
        raise CheckpointError(f"{metadata.path}: merge {merge!r} names what is no token", hint=DAMAGED)
    return left, right


def _sentencepiece(metadata: Metadata, tokens: list[str], types: NDArray[np.integer[Any]], unknown: str) -> Tokenizer:
    """Build a SentencePiece BPE tokenizer: of all neighbours that form a piece, the best scored merge first."""
    scores = _per_token(metadata, "scores", len(tokens), metadata.numbers, np.empty(0))
    mergeable = np.isin(types, (_NORMAL, _UNUSED))
    if len(np.unique(scores[mergeable])) < 2:
        raise UnsupportedError(
            f"{metadata.path}: all pieces of the tokenizer score the same, so that the order of merges is lost",
            hint="copy tokenizer.json from the original model",
        )
    ids = {token: id_ for id_, token in enumerate(tokens)}
    merges: list[tuple[str, str]] = []
    for id_ in np.argsort(-scores, kind="stable"):
        if mergeable[id_]:
            piece = tokens[id_]
            halves = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
            known = [(left, right) for left, right in halves if left in ids and right in ids]
            merges += sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    fallback = all(byte in ids for byte in _BYTES)
    tokenizer = Tokenizer(
        models.BPE(vocab=ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=fallback)
    )
    prefix = metadata.flag("tokenizer.ggml.add_space_prefix", default=True)
    visible = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), visible]) if prefix else visible
    tail = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *tail]
    )
    return tokenizer


def _added_tokens(metadata: Metadata, tokens: list[str], types: NDArray[np.integer[Any]]) -> dict[int, AddedToken]:
    """Return the tokens that are found in text before it is split: id -> token, in order of ids."""
    named = {special_token(metadata, key, len(tokens)) for key in (*_ROLES, "eot", "eom")}
    return {
        id_: AddedToken(tokens[id_], normalized=False, special=kind != _USER_DEFINED)
        for id_, kind in enumerate(types.tolist())
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED) or id_ in named
    }


def _added_token_json(token: AddedToken) -> dict[str, Any]:
    keys = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {key: getattr(token, key) for key in keys}


def _add_frame(metadata: Metadata, tokenizer: Tokenizer, roles: dict[str, str], frame: dict[str, bool]) -> None:
    """Put bos before and eos after every text, as ``frame`` asks."""
    wanted = [role for role, value in frame.items() if value]
    for role in wanted:
        if not _TEMPLATE_TOKEN.fullmatch(roles.get(role, "")):
            raise CheckpointError(
                f"{metadata.path}: tokenizer.ggml.add_{role}_token is set, but the {role} token is"
                f" {roles.get(role, 'missing')!r}",
                hint=DAMAGED,
            )
    if wanted:
        first, last = ([roles[role]] if role in wanted else [] for role in ("bos", "eos"))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*first, "$A", *last],
            pair=[*first, "$A", *last, *(f"{token}:1" for token in first), "$B:1", *(f"{token}:1" for token in last)],
            special_tokens=[(roles[role], tokenizer.token_to_id(roles[role])) for role in wanted],
        )


def _chat_templates(metadata: Metadata) -> dict[str, str]:
    key = "tokenizer.chat_template"
    names = metadata.texts("tokenizer.chat_templates") if "tokenizer.chat_templates" in metadata else []
    templates = {name: metadata.text(f"{key}.{name}") for name in names if name != "default"}
    return ({"default": metadata.text(key)} if key in metadata else {}) | templates


def _templates_json(templates: dict[str, str]) -> dict[str, Any]:
    if not templates:
        return {}
    if templates.keys() == {"default"}:
        return {"chat_template": templates["default"]}
    return {"chat_template": [{"name": name, "template": template} for name, template in templates.items()]}
