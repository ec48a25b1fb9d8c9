"""From what a user types to an open checkpoint."""

from halve.checkpoint import hub, onnx_source
from halve.checkpoint.base import Checkpoint
from halve.checkpoint.gguf_checkpoint import GgufCheckpoint
from halve.checkpoint.hf import CONFIG, PICKLES, HfCheckpoint, refused_pickle
from halve.checkpoint.place import Place, place
from halve.checkpoint.torch_file import SUFFIXES
from halve.errors import CheckpointError

HINT = (
    "give a folder with config.json and safetensors, a .gguf or .onnx file, a URL of these, or org/name[@revision] of "
    "the Hugging Face hub"
)
FILES = (".gguf", onnx_source.SUFFIX, ".safetensors", *PICKLES)  # what ends so was meant as a file, not a repository


def open_checkpoint(spec: str | Place) -> Checkpoint:
    """Open a folder, a ``.gguf`` or ``.onnx`` file, or ``org/name[@revision]`` of the Hugging Face hub, in this order.

    A folder or ``.gguf`` file may be a URL (`halve.checkpoint.url`), which is read by ranges.

    A folder without config.json that holds one ``.gguf`` file is that file. One with ``model.onnx`` and no weights of
    another kind is an ONNX model. Raises CheckpointError for what is none of
    these, or is damaged; UnsupportedError for a model of an unknown kind.
    """
    path = place(spec)
    try:
        if path.is_dir() and onnx_source.holds_model(path):
            return onnx_source.open_onnx(path)
        if path.is_dir():
            return _open_file(only) if (only := _only_gguf(path)) else HfCheckpoint(path)
        there = path.exists()
    except OSError as error:  # a name that is too long, a folder that may not be searched
        raise CheckpointError(f"{path}: {error.strerror}", hint=HINT) from error
    if there:
        return _open_file(path)
    repository = hub.parse(spec) if isinstance(spec, str) and path.suffix.lower() not in FILES else None
    if repository is None:
        raise CheckpointError(f"{path}: no such file or folder", hint=HINT)
    return HfCheckpoint(hub.resolve(*repository))


def _only_gguf(folder: Place) -> Place | None:
    """The GGUF file of a folder that holds one and no config.json."""
    found = [path for path in folder.iterdir() if path.suffix.lower() == ".gguf"]
    return found[0] if len(found) == 1 and not (folder / CONFIG).exists() else None


def _open_file(path: Place) -> Checkpoint:
    suffix = path.suffix.lower()
    if suffix == ".gguf":
        return GgufCheckpoint(path)
    if suffix == onnx_source.SUFFIX:
        return onnx_source.open_onnx(path)
    if suffix in (".safetensors", *SUFFIXES):
        raise CheckpointError(
            f"{path}: one file of weights is not a model", hint=f"give its folder, {path.parent}, which has config.json"
        )
    if suffix in PICKLES:
        raise refused_pickle(path)
    raise CheckpointError(f"{path}: neither a folder nor a .gguf or .onnx file", hint=HINT)
