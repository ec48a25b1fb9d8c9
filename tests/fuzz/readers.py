"""Every reader of files that strangers send: how it is called, and what small files its corpus began with.

A reader may refuse whatever it is given, with a HalveError; all else that it raises is a bug. ``corpus/READER`` holds
the seeds, and what has once been a bug.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from halve.checkpoint import manifest, onnx_source, torch_pickle
from halve.checkpoint.base import read_array
from halve.checkpoint.gguf_checkpoint import GgufCheckpoint
from halve.checkpoint.gguf_tokenizer import tokenizer_metadata
from halve.checkpoint.hf import HfCheckpoint
from halve.checkpoint.safetensors import read_header
from halve.checkpoint.storage import FileReader
from halve.checkpoint.torch_file import tensors_of
from halve.errors import HalveError
from halve.models import families
from halve.models.config_shape import shape_of
from halve.pipeline import workspace
from halve.pipeline.imatrix import Imatrix
from halve.pipeline.journal import Journal
from halve.pipeline.statistics import StatisticsFile
from halve.plan import points
from halve.runtime.chat import Chat
from halve.runtime.text import Tokenizer
from halve.schemes import recipe

CORPUS = Path(__file__).parent / "corpus"
WEIGHTS = save({"model.norm.weight": np.zeros(4, np.float32)})


@dataclass(frozen=True, slots=True)
class Reader:
    """``read`` is given an empty folder's path and content; it may leave files there, which the next call replaces."""

    read: Callable[[Path, bytes], object]
    third_party: bool = False  # the parsing is done by another's library


def _file(name: str, read: Callable[[Path], object]) -> Callable[[Path, bytes], object]:
    def call(folder: Path, content: bytes) -> object:
        path = folder / name
        path.write_bytes(content)
        return read(path)

    return call


def _gguf(path: Path) -> None:
    checkpoint = GgufCheckpoint(path)
    try:
        for name in checkpoint.tensors:
            read_array(checkpoint, name)
    finally:
        checkpoint.close()


@cache
def _beside(folder: Path, name: str, content: bytes) -> None:
    """Put a file where the reader looks for it, once: the one that is fuzzed has another name."""
    (folder / name).write_bytes(content)


def _index(path: Path) -> None:
    _beside(path.parent, "config.json", b"{}")
    _beside(path.parent, "model-1.safetensors", WEIGHTS)
    HfCheckpoint(path.parent).close()


def _config(path: Path) -> None:
    _beside(path.parent, "model.safetensors", WEIGHTS)
    with suppress(HalveError):
        config = families.read_config(path)
        for describe in (families.geometry, families.decoder, shape_of):
            with suppress(HalveError):
                describe(config, name="x")
    HfCheckpoint(path.parent).close()


def _torch(path: Path) -> None:
    with FileReader(path) as file:
        tensors_of(file)


def _onnx(path: Path) -> None:
    onnx_source.open_onnx(path).close()


def _statistics(path: Path) -> None:
    file = StatisticsFile(path)
    file.of("model.layers.0.mlp.down_proj.weight", 4)
    file.kv_amax()
    file.largest("down_proj")


def _imatrix(path: Path) -> None:
    file = Imatrix(path)
    for name in file.tensors:
        file.read(name)


def _tokenizer(folder: Path, content: bytes) -> None:
    tokenizer = Tokenizer(folder, {"tokenizer.json": content})
    tokenizer.decode(tokenizer.encode("a line of text"))


def _template(folder: Path, content: bytes) -> None:
    Chat(folder, {"chat_template.jinja": content}).render([{"role": "user", "content": "Hello"}])


READERS = {
    "safetensors": Reader(_file("x.safetensors", read_header)),
    "gguf": Reader(_file("x.gguf", _gguf)),
    "index": Reader(_file("model.safetensors.index.json", _index)),
    "config": Reader(_file("config.json", _config)),
    "gguf_tokenizer": Reader(lambda _, content: tokenizer_metadata({"tokenizer.json": content}, {}, 16)),
    "torch_archive": Reader(_file("pytorch_model.bin", _torch)),
    "torch_pickle": Reader(lambda _, content: torch_pickle.loads(content, "data.pkl")),
    "statistics": Reader(_file("statistics.safetensors", _statistics)),
    "imatrix": Reader(_file("imatrix.gguf", _imatrix)),
    "journal": Reader(_file("journal", lambda path: Journal(path, lambda: None).close())),
    "job": Reader(lambda folder, content: workspace.agree(folder, {"scheme": "nvfp4a16"}, content)),
    "manifest": Reader(_file("halve.json", lambda path: manifest.read(path.parent))),
    "points": Reader(_file("points.csv", lambda path: list(points.read(path)))),
    "recipe": Reader(_file("recipe.yaml", recipe.read), third_party=True),
    "onnx": Reader(_file("x.onnx", _onnx), third_party=True),
    "tokenizer": Reader(_tokenizer, third_party=True),
    "template": Reader(_template, third_party=True),
}


def seeds(reader: str) -> list[bytes]:
    """The corpus of ``reader``."""
    return [path.read_bytes() for path in sorted((CORPUS / reader).iterdir())]
