"""Write expected.json: llama.cpp's token ids for the corpus. See README.md for what it needs."""

import argparse
import ctypes
import json
import re
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mistral_common
import regex
import tiktoken_ext.openai_public
import xllamacpp.xllamacpp

from tiny.corpus import corpus, digest, excerpts
from tiny.gguf_models import TinyModel
from tiny.vocabularies import cases

HERE = Path(__file__).parent


class ModelParams(ctypes.Structure):
    """llama_model_params, only ever passed from the function that makes it to the one that takes it."""

    _fields_ = (("opaque", ctypes.c_uint8 * 512),)


class LlamaCpp:
    """The tokenizer of a GGUF file, by llama.cpp's C interface (llama.h), which the wheel exports."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
        library.llama_model_default_params.restype = ModelParams
        library.llama_model_load_from_file.argtypes = [ctypes.c_char_p, ModelParams]
        library.llama_model_load_from_file.restype = ctypes.c_void_p
        library.llama_model_get_vocab.argtypes = [ctypes.c_void_p]
        library.llama_model_get_vocab.restype = ctypes.c_void_p
        ids = ctypes.POINTER(ctypes.c_int32)
        flags = [ctypes.c_bool, ctypes.c_bool]
        library.llama_tokenize.argtypes = [
            ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ids, ctypes.c_int32, *flags
        ]  # fmt: skip
        library.llama_model_free.argtypes = [ctypes.c_void_p]
        self._library = library
        self._model = library.llama_model_load_from_file(str(path).encode(), library.llama_model_default_params())
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
    text = json.dumps(content, indent=1)
    text = re.sub(r"\[[^\[\]]*\]", lambda ids: " ".join(ids[0].split()), text)  # a list of ids on one line
    (HERE / "expected.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
