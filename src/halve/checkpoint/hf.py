"""Hugging Face folders: config.json, one file of weights or an index with shards, tokenizer files.

Weights are safetensors, or, where there are none, what ``torch.save`` wrote.

A folder may come from anybody, so what its files say about each other is checked before a weight is read: no name leads
out of the folder, every tensor is in the one shard that the index gives, and nothing in it is ever run.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from halve.checkpoint.base import TensorInfo
from halve.checkpoint.place import Place, RangeReader, content, open_ranges
from halve.checkpoint.safetensors import Located, header_of
from halve.checkpoint.torch_file import SUFFIXES, Strided, tensors_of
from halve.document import CONFIG_LIMIT, json_object
from halve.errors import CheckpointError

CONFIG = "config.json"
SINGLE = "model.safetensors"
_HEAD = "lm_head.weight"
_PART = re.compile(r"-\d+-of-(\d+)\.\w+$")
INDEX = "model.safetensors.index.json"
TORCH_SINGLE = "pytorch_model.bin"
TORCH_INDEX = "pytorch_model.bin.index.json"
TORCH_CODES = "model.pt"  # quantized, under a name that transformers does not look for: it would take codes for weights
TORCH_CODES_INDEX = "model.pt.index.json"
PICKLES = (*SUFFIXES, ".ckpt", ".pkl")
PICKLE_HINT = (
    'convert it to safetensors once, where you trust it: python -c "import torch, safetensors.torch as s; s.save_file('
    "{k: v.contiguous().clone() for k, v in torch.load('pytorch_model.bin', weights_only=True).items()},"
    " 'model.safetensors', {'format': 'pt'})\""
)
AUXILIARY = frozenset(
    {
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "generation_config.json",
        "merges.txt",
        "preprocessor_config.json",
        "processor_config.json",
        "special_tokens_map.json",
        "spiece.model",
        "tekken.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "video_preprocessor_config.json",
        "vocab.json",
        "vocab.txt",
    }
)

_AGAIN = "the checkpoint is incomplete or damaged: download or copy it again"
_INDEX_LIMIT = 64 << 20  # 200 000 tensors take 25 MB
_AUXILIARY_LIMIT = 128 << 20  # the largest tokenizer.json in use takes 35 MB
_MODELOPT = "hf_quant_config.json"
_SEVERAL, _LAYERS = "MIXED_PRECISION", "quantized_layers"  # in either of its files
_ELSEWHERE = {"quantize_config.json": "gptq", "quant_config.json": "awq"}  # AutoGPTQ's and AutoAWQ's first folders
_NO_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|rng_state|scaler)\w*\.\w+")  # what trainers leave behind
_SHARED_BLOBS = ".huggingface-shared-blobs"  # huggingface_hub 2 marks its store for all repositories with this file


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of weight files, and what they are called."""

    name: str
    wholes: Mapping[str, str]  # a file of all weights -> the index of the same in parts
    suffixes: tuple[str, ...]


_KINDS = (
    _Kind("safetensors", {SINGLE: INDEX}, (".safetensors",)),
    _Kind("torch", {TORCH_SINGLE: TORCH_INDEX, TORCH_CODES: TORCH_CODES_INDEX}, SUFFIXES),
)


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The weight files of a folder, and where it has one, the index: its name, and tensor -> file."""

    files: tuple[Place, ...]
    index_name: str = ""
    index: Mapping[str, str] | None = None


class HfCheckpoint:
    """A checkpoint folder. Implements ``halve.checkpoint.base.Checkpoint``; ``files`` are its weight files.

    Where both are there, ``model.safetensors`` comes before the index, as in transformers. ``tensors`` come in the
    order of their files and, within a file, of their data. Raises CheckpointError naming the file and what is wrong.
    """

    def __init__(self, path: Place) -> None:
        self.path = path
        self.config = _config(path)
        found = weight_files(path)
        self.files = found.files
        self._readers: list[RangeReader] = []
        self._places: dict[str, tuple[RangeReader, Located]] = {}
        try:
            for file in self.files:
                self._add(file, found)
            self._check_all_there(found)
        except BaseException:
            self.close()
            raise
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(
            {name: located.info for name, (_, located) in self._places.items() if not self._tied(name)}
        )

    @property
    def quantization(self) -> dict[str, Any] | None:
        """How the folder says its weights are quantized; None where they are not.

        It is ``quantization_config`` of config.json, or ``quantization`` of ModelOpt's hf_quant_config.json, or the
        whole of a file of its own that the method has. ModelOpt's list of layers is taken from the second where the
        first says that there are several algorithms and not which is where.
        """
        found: dict[str, Any] | None = self.config.get("quantization_config")
        unlisted = found is not None and found.get("quant_algo") == _SEVERAL and _LAYERS not in found
        if (found is None or unlisted) and _MODELOPT in _names(self.path):
            written = _json(inside(self.path, _MODELOPT), CONFIG_LIMIT)
            inner = written["quantization"] if isinstance(written.get("quantization"), dict) else written
            found = inner if found is None else found | {key: inner[key] for key in (_LAYERS,) if key in inner}
        for name, method in _ELSEWHERE.items():
            if found is None and name in _names(self.path):
                found = {"quant_method": method} | _json(inside(self.path, name), CONFIG_LIMIT)
        return found

    def read(self, name: str, start: int, stop: int, buffer: memoryview) -> memoryview:
        """Fill ``buffer`` with rows ``start..stop`` of tensor ``name``; return the part filled.

        Raises CheckpointError where the file ends early or cannot be read; ValueError, a mistake of the caller, for
        rows that the tensor does not have and a buffer that is too small.
        """
        reader, located = self._places[name]
        info = located.info
        filled = buffer.cast("B")[: (stop - start) * info.row_bytes]
        if not 0 <= start <= stop <= info.rows or len(filled) != (stop - start) * info.row_bytes:
            raise ValueError(f"rows {start} to {stop} of {name}, which has {info.rows}, into {len(buffer)} elements")
        if isinstance(located, Strided):
            located.read(reader, start, stop, filled)
        else:
            reader.read_into(located.begin + start * info.row_bytes, filled, name)
        return filled

    def stored(self, name: str) -> tuple[str, int]:
        """Type and bytes of ``name`` in its file."""
        return self.tensors[name].dtype, self.tensors[name].nbytes

    def release(self, name: str) -> None:
        """Let the pages of ``name`` leave the page cache."""
        reader, located = self._places[name]
        reader.drop(located.begin, located.end)

    def auxiliary(self) -> dict[str, bytes]:
        """Files that travel with the weights: tokenizer, chat template, generation defaults, licence; name -> content.

        Raises CheckpointError for one that is a link out of the folder, or absurdly large.
        """
        files = {}
        for name in _names(self.path):
            if (name in AUXILIARY or name.startswith("LICENSE")) and (self.path / name).is_file():
                files[name] = content(inside(self.path, name), _AUXILIARY_LIMIT)
        return files

    def close(self) -> None:
        """Close the files; closing twice is harmless."""
        for reader in self._readers:
            reader.close()

    def _add(self, file: Place, found: WeightFiles) -> None:
        index = found.index
        reader = open_ranges(file)
        self._readers.append(reader)
        for name, located in _tensors(reader).items():
            if index is not None and index.get(name) != file.name:
                place = f"gives to {index[name]}" if name in index else "does not list"
                raise CheckpointError(f"{file}: holds tensor {name!r}, which {found.index_name} {place}", hint=_AGAIN)
            self._places[name] = reader, located

    def _tied(self, name: str) -> bool:
        """Whether ``name`` is the output head of a tied model, stored as a view of the embedding: no second weight."""
        if not name.endswith(_HEAD) or self.config.get("tie_word_embeddings") is not True:
            return False
        mine, place = self._places[name]
        return any(
            other != name and reader is mine and (located.begin, located.end) == (place.begin, place.end)
            for other, (reader, located) in self._places.items()
        )

    def _check_all_there(self, found: WeightFiles) -> None:
        missing = [name for name in found.index or () if name not in self._places]
        if missing:
            raise CheckpointError(
                f"{self.path / found.index_name}: {len(missing)} of its tensors are in no file, {missing[0]!r} first",
                hint=_AGAIN,
            )
        if not self._places:
            raise CheckpointError(f"{self.path}: its weight files hold no tensors", hint=_AGAIN)


def weight_files(folder: Place) -> WeightFiles:
    """The weight files of ``folder``, all of them there; safetensors come before what torch wrote.

    Raises CheckpointError where a file is missing, where its name leads out of the folder, and where there are neither.
    """
    names = _names(folder)
    for kind in _KINDS:
        for whole, index_name in kind.wholes.items():
            if whole in names:
                return WeightFiles((inside(folder, whole),))
            if index_name in names:
                index = _index(folder, index_name, kind)
                files = tuple(inside(folder, name) for name in sorted(set(index.values())))
                return WeightFiles(files, index_name, index)
        weights = [name for name in names if name.endswith(kind.suffixes) and not _NO_WEIGHTS.match(name)]
        if weights:
            return WeightFiles((inside(folder, _only(folder, weights, kind)),))
    pickles = [name for name in names if name.endswith(PICKLES) and not _NO_WEIGHTS.match(name)]
    if pickles:
        raise refused_pickle(folder / pickles[0])
    raise CheckpointError(f"{folder}: no safetensors file is there", hint="give the folder that holds the weights")


def _only(folder: Place, weights: list[str], kind: _Kind) -> str:
    """The one file of ``weights``. Raises CheckpointError where there are more, or should be."""
    index_name = next(iter(kind.wholes.values()))
    if len(weights) > 1:
        raise CheckpointError(
            f"{folder}: {len(weights)} {kind.name} files and no {index_name} that says what they are", hint=_AGAIN
        )
    part = _PART.search(weights[0])
    if part and int(part[1]) > 1:
        raise CheckpointError(
            f"{folder}: {weights[0]} is one of {int(part[1])} files, and there is no {index_name}", hint=_AGAIN
        )
    return weights[0]


def _tensors(file: RangeReader) -> dict[str, Located]:
    """The tensors of an open file of weights, located from its first byte on, in the order of their data."""
    if file.path.name.endswith(SUFFIXES):
        return tensors_of(file)
    header = header_of(file)
    start = header.data_start
    return {name: Located(at.info, start + at.begin, start + at.end) for name, at in header.tensors.items()}


def refused_pickle(path: Place) -> CheckpointError:
    """The error for a file of weights that can only be read by running what is in it."""
    return CheckpointError(f"{path}: refused: it is a pickle, and reading one runs code from it", hint=PICKLE_HINT)


def inside(folder: Place, name: str) -> Place:
    """The regular file ``name`` of ``folder``.

    Links may lead to other files of the folder and, in a Hugging Face cache, to that repository's blobs. Raises
    CheckpointError for a file that is missing, not regular, or elsewhere.
    """
    path = folder / name
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        why = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be opened: {error}"
        raise CheckpointError(f"{path}: {why}", hint=_AGAIN) from error
    if not any(root in real.parents for root in _roots(folder)):
        raise CheckpointError(
            f"{path}: refused: it is a link to {real}, outside of the folder",
            hint="copy the file into the folder, if that is where it should come from",
        )
    if not real.is_file():
        raise CheckpointError(f"{path}: not a regular file", hint=_AGAIN)
    return path


def _roots(folder: Place) -> list[Place]:
    real = folder.resolve()
    repository = real.parent.parent
    if real.parent.name != "snapshots" or not repository.name.startswith("models--"):
        return [real]
    shared = repository.parent / "blobs"
    return [real, repository, *([shared] if (shared / _SHARED_BLOBS).is_file() else [])]


def _names(folder: Place) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{folder}: {error.strerror}", hint="give a folder that you may read") from error


def _config(folder: Place) -> dict[str, Any]:
    names = _names(folder)
    if CONFIG not in names:
        hint = "give the folder that holds the model's config.json"
        if "adapter_config.json" in names:
            hint = "this is an adapter: merge it into its model first"
        elif "snapshots" in names:
            hint = f"give one of the folders in {folder / 'snapshots'}"
        elif any(name.endswith(".gguf") for name in names):
            hint = "give the path of the .gguf file itself"
        raise CheckpointError(f"{folder}: {CONFIG} is missing", hint=hint)
    path = inside(folder, CONFIG)
    config = _json(path, CONFIG_LIMIT)
    if not isinstance(config.get("quantization_config"), dict | None):
        raise CheckpointError(f"{path}: quantization_config is not an object", hint=_AGAIN)
    return config


def _index(folder: Place, name: str, kind: _Kind) -> dict[str, str]:
    path = inside(folder, name)
    index = _json(path, _INDEX_LIMIT).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise CheckpointError(f"{path}: its weight_map is no object of tensors", hint=_AGAIN)
    for tensor, file in index.items():
        if not isinstance(file, str) or not file.endswith(kind.suffixes) or set(file) & set("/\\\0"):
            raise CheckpointError(
                f"{path}: refused: tensor {tensor!r} is in {file!r}, which is not the name of a {kind.name} file in "
                "this folder",
                hint="an index with other paths is damaged or hostile: download it again from a source that you trust",
            )
    return index


def _json(path: Place, limit: int) -> dict[str, Any]:
    return json_object(content(path, limit), path, hint=_AGAIN)
