r"""How the byte-level BPE tokenizers of GGUF files split text into words: the table behind ``tokenizer.ggml.pre``.

GGUF names the splitting and does not store it. A row gives the regular expressions (Oniguruma, as the `tokenizers`
library reads them) that are applied one after another, each isolating what it matches, and what else the name implies.
The expressions are those of the models' own tokenizers; llama.cpp's ids on the same text are the oracle.

To add a name, add it to a row of ``_ROWS``, or a row.
"""

from dataclasses import dataclass

from halve.checkpoint.place import Place
from halve.errors import UnsupportedError


@dataclass(frozen=True, slots=True, kw_only=True)
class PreTokenizer:
    """One way to split text. ``ignore_merges``: a word that is a token is taken whole, whatever the merges say."""

    names: tuple[str, ...]
    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    normalization: str = ""  # Unicode normal form applied first


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_LLAMA3 = rf"{_SUFFIX}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|{_SPACES}"
_QWEN2 = rf"{_SUFFIX}|{_WORD}|\p{{N}}|{_SIGNS}|{_SPACES}"
# GPT-4o and Tekken split a word where its case changes.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_SIGNS_OR_PATHS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_TEKKEN = rf"{_LEAD}{_UPPER}*{_LOWER}+|{_LEAD}{_UPPER}+{_LOWER}*|\p{{N}}|{_SIGNS_OR_PATHS}|{_SPACES}"
_GPT4O = (
    rf"{_LEAD}{_UPPER}*{_LOWER}+{_SUFFIX}?|{_LEAD}{_UPPER}+{_LOWER}*{_SUFFIX}?|\p{{N}}{{1,3}}"
    rf"|{_SIGNS_OR_PATHS}|{_SPACES}"
)
_CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
)

_ROWS = (
    # llama.cpp's fallback where a file names nothing
    PreTokenizer(names=("default",), patterns=(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    PreTokenizer(names=("gpt-2", "phi-2", "mpt", "olmo", "trillion", "a.x-4.0", "mellum"), patterns=(_GPT2,)),
    PreTokenizer(
        names=("smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b"), patterns=(r"\p{N}", _GPT2)
    ),
    PreTokenizer(
        names=("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0"),
        patterns=(_LLAMA3,),
        ignore_merges=True,
        add_bos=True,
    ),
    PreTokenizer(names=("dbrx", "smaug-bpe"), patterns=(_LLAMA3,)),
    # Qwen's own tokenizer.json normalizes; llama.cpp does not, and differs on text that is not NFC.
    PreTokenizer(names=("qwen2",), patterns=(_QWEN2,), normalization="NFC"),
    PreTokenizer(names=("deepseek-r1-qwen", "megrez"), patterns=(_QWEN2,)),
    # llama.cpp approximates the next two: it takes every letter beyond ASCII for upper and lower case at once.
    PreTokenizer(names=("tekken",), patterns=(_TEKKEN,), ignore_merges=True, add_bos=True),
    PreTokenizer(names=("gpt-4o", "llama4"), patterns=(_GPT4O,)),
    PreTokenizer(names=("deepseek-v3",), patterns=(r"\p{N}{1,3}", _CJK, _DEEPSEEK3)),
    PreTokenizer(
        names=("deepseek-coder",),
        patterns=(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", r"\p{N}"),
    ),
    PreTokenizer(
        names=("seed-coder",),
        patterns=(rf"{_SUFFIX}|{_WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",),
    ),
)
PRETOKENIZERS: dict[str, PreTokenizer] = {name: row for row in _ROWS for name in row.names}


def get(name: str, path: Place) -> PreTokenizer:
    """Return the row called ``name``. Raises UnsupportedError naming ``path`` and the known names."""
    try:
        return PRETOKENIZERS[name]
    except KeyError:
        raise UnsupportedError(
            f"{path}: the tokenizer splits text in the way called {name!r}, which is not known",
            hint=f"known: {', '.join(sorted(PRETOKENIZERS))}; copy tokenizer.json from the original model",
        ) from None
