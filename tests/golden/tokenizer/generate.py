"""Write expected.json: what llama.cpp makes of the corpus. See README.md for what it needs."""

import argparse
import ctypes
import json
import re
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mistral_common
import numpy as np
import regex
import tiktoken_ext.openai_public
import xllamacpp.xllamacpp

from tiny.corpus import corpus, digest, excerpts
from tiny.gguf_models import TinyModel
from tiny.vocabularies import cases

HERE = Path(__file__).parent
TOKENS = 256


class Params(ctypes.Structure):
    """llama_model_params or llama_context_params, only ever passed from the function that makes it to its user."""

    _fields_ = (("opaque", ctypes.c_uint8 * 512),)


class Batch(ctypes.Structure):
    """llama_batch."""

    _fields_ = (
        ("count", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("tokens", "embeddings", "positions", "sequences", "ids", "logits")),
    )


POINTER, INT = ctypes.c_void_p, ctypes.c_int32
SIGNATURES = {
    "llama_model_default_params": (Params, []),
    "llama_model_load_from_file": (POINTER, [ctypes.c_char_p, Params]),
    "llama_model_get_vocab": (POINTER, [POINTER]),
    "llama_model_free": (None, [POINTER]),
    "llama_tokenize": (INT, [POINTER, ctypes.c_char_p, INT, POINTER, INT, ctypes.c_bool, ctypes.c_bool]),
    "llama_context_default_params": (Params, []),
    "llama_init_from_model": (POINTER, [POINTER, Params]),
    "llama_batch_get_one": (Batch, [POINTER, INT]),
    "llama_decode": (INT, [POINTER, Batch]),
    "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), [POINTER, INT]),
    "llama_free": (None, [POINTER]),
}


class LlamaCpp:
    """A GGUF model, by llama.cpp's C interface (llama.h), which the wheel exports."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        parameters = self._library.llama_model_default_params()
        self._model = self._library.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._model:
            message = f"llama.cpp cannot load {path}"
            raise RuntimeError(message)

    def ids(self, text: str) -> list[int]:
        """Ids with bos and eos as the file asks, special tokens recognised in the text."""
        content = text.encode()
        room = len(content) + 16
        out = (ctypes.c_int32 * room)()
        vocabulary = self._library.llama_model_get_vocab(self._model)
        count = self._library.llama_tokenize(vocabulary, content, len(content), out, room, True, True)
        return out[:count]

    def losses(self, ids: list[int], vocab: int) -> list[float]:
        """Negative log-likelihood, in nats, of each id but the first, given those before it."""
        library = self._library
        context = library.llama_init_from_model(self._model, library.llama_context_default_params())
        tokens, wanted = (ctypes.c_int32 * len(ids))(*ids), (ctypes.c_int8 * len(ids))(*[1] * len(ids))
        batch = library.llama_batch_get_one(tokens, len(ids))
        batch.logits = ctypes.cast(wanted, ctypes.c_void_p)
        if library.llama_decode(context, batch):
            message = "llama.cpp cannot decode"
            raise RuntimeError(message)
        losses = []
        for place, following in enumerate(ids[1:]):
            logits = np.ctypeslib.as_array(library.llama_get_logits_ith(context, place), (vocab,)).astype(np.float64)
            losses.append(float(np.logaddexp.reduce(logits) - logits[following]))
        library.llama_free(context)
        return losses

    def close(self) -> None:
        """Free the model."""
        self._library.llama_model_free(self._model)


def expect(path: Path, texts: dict[str, str]) -> dict[str, Any]:
    """Text name -> digest of llama.cpp's ids."""
    tokenizer = LlamaCpp(path)
    try:
        return {name: digest(tokenizer.ids(text)) for name, text in texts.items()}
    finally:
        tokenizer.close()


def splits(texts: dict[str, str]) -> dict[str, Any]:
    """Lengths of the words that the publishers' own patterns give, where llama.cpp only approximates them."""
    tekken = json.loads((Path(mistral_common.__file__).parent / "data" / "tekken_240911.json").read_bytes())
    patterns = {"tekken": tekken["config"]["pattern"], "gpt-4o": o200k_pattern()}
    return {
        name: {text: digest([len(word) for word in regex.findall(pattern, texts[text])]) for text in texts}
        for name, pattern in patterns.items()
    }


def o200k_pattern() -> str:
    """The pattern of tiktoken's o200k_base, without fetching its vocabulary."""
    tiktoken_ext.openai_public.load_tiktoken_bpe = lambda *_args, **_options: {}
    pattern: str = tiktoken_ext.openai_public.o200k_base()["pat_str"]
    return pattern


def loss(path: Path) -> dict[str, Any]:
    """What llama.cpp makes of the beginning of a text: proof of names, order of q/k rows and config together."""
    model = LlamaCpp(path)
    try:
        losses = model.losses(model.ids(corpus()["topics"])[:TOKENS], vocab=49152)
    finally:
        model.close()
    return {"text": "topics", "tokens": TOKENS, "mean": round(sum(losses) / len(losses), 5)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("smollm2", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf")
    smollm2: Path = arguments.parse_args().smollm2
    expected: dict[str, Any] = {"SmolLM2-135M-Instruct": expect(smollm2, corpus())}
    with tempfile.TemporaryDirectory() as folder:
        for name, metadata in cases().items():
            path = Path(folder) / "tiny.gguf"
            model = TinyModel(layers=1, vocab=len(metadata["tokenizer.ggml.tokens"]), metadata=metadata)
            expected[name] = expect(model.write(path), excerpts())
    packages = ("xllamacpp", "mistral-common", "tiktoken", "regex")
    content = {"packages": {name: version(name) for name in packages}, "ids": expected, "splits": splits(excerpts())}
    content["loss"] = {"SmolLM2-135M-Instruct": loss(smollm2)}
    text = json.dumps(content, indent=1)
    text = re.sub(r"\[[^\[\]]*\]", lambda ids: " ".join(ids[0].split()), text)  # a list of ids on one line
    (HERE / "expected.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
