"""From a path to an open ONNX model. Needs no ``onnx`` until there is one to open."""

from halve.checkpoint.base import Checkpoint
from halve.checkpoint.place import Place, local
from halve.errors import UnsupportedError

SUFFIX = ".onnx"
MODEL = "model.onnx"  # in a folder
METHOD = "onnx-qdq"  # what an OnnxCheckpoint with quantized weights calls itself


def holds_model(folder: Place) -> bool:
    """Whether ``folder`` is an ONNX model's, and no other checkpoint's: transformers looks for other names first."""
    weights = (".safetensors", ".bin", ".pt", ".pth")
    return (folder / MODEL).is_file() and not any(path.suffix in weights for path in folder.iterdir())


def open_onnx(path: Place) -> Checkpoint:
    """The ONNX model at ``path``: a file, or a folder with ``model.onnx``.

    Raises UnsupportedError for a URL, and where the ``onnx`` package is missing, CheckpointError for a damaged file.
    """
    require(str(path))
    from halve.checkpoint.onnx_checkpoint import OnnxCheckpoint  # noqa: PLC0415 - needs onnx

    return OnnxCheckpoint(local(path, "an ONNX model"))


def require(what: str) -> None:
    """Raise UnsupportedError where the ``onnx`` package, which ``what`` needs, is missing."""
    try:
        import onnx  # noqa: F401, PLC0415 - an extra
    except ImportError:
        raise UnsupportedError(
            f"{what}: ONNX models need the package onnx, which is not installed", hint="pip install 'halve[onnx]'"
        ) from None


def only_layout(checkpoint: Checkpoint) -> str | None:
    """The one layout that can hold ``checkpoint``: ONNX's, where it is a graph that halve has not built itself."""
    own = getattr(checkpoint, "own", None)  # only an OnnxCheckpoint has it, whose class needs onnx
    return METHOD if own is False else None


def remarks(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What an ONNX model has that looks like a weight and is left as it is, and why."""
    found: tuple[str, ...] = getattr(checkpoint, "remarks", ())
    return found
