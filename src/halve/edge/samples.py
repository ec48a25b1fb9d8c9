"""Calibration inputs: a folder of images, or arrays in .npy and .npz files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halve.edge.model import FloatModel, Input
from halve.edge.running import Sample
from halve.errors import CheckpointError, UnsupportedError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
ARRAYS = (".npy", ".npz")
_PIXELS = 1 << 26  # of an image


@dataclass(frozen=True, slots=True)
class Picture:
    """How an image becomes an input: RGB of 0 to 255 in ``size`` (height, width), less ``mean``, over ``std``."""

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (255.0,)


def read(path: Path, model: FloatModel, picture: Picture, limit: int = 128) -> tuple[Sample, ...]:
    """Samples for ``model`` from the files in folder ``path``, or from one .npy or .npz file; no more than ``limit``.

    An .npz holds every input by name, with samples along the first axis of each; an .npy those of the only input.

    Raises UnsupportedError where there are none, where an image is not what the model takes, and for images without
    Pillow; CheckpointError for files that cannot be read.
    """
    if path.is_dir():
        files = sorted(one for one in path.rglob("*") if one.suffix.lower() in IMAGES + ARRAYS)
    else:
        files = [path] if path.is_file() else []
    if not files:
        raise UnsupportedError(
            f"{path}: no calibration inputs there", hint=f"a folder of images or arrays: {', '.join(IMAGES + ARRAYS)}"
        )
    found: list[Sample] = []
    for file in files:
        if len(found) >= limit:
            break
        found += _arrays(file, model) if file.suffix.lower() in ARRAYS else [_image(file, model, picture)]
    return tuple(found[:limit])


def _only(model: FloatModel, what: Path) -> Input:
    if len(model.inputs) != 1:
        names = ", ".join(one.name for one in model.inputs)
        raise UnsupportedError(
            f"{what}: the model has {len(model.inputs)} inputs: {names}", hint="give .npz files with an array for each"
        )
    return model.inputs[0]


def _arrays(file: Path, model: FloatModel) -> list[Sample]:
    try:
        loaded = np.load(file, allow_pickle=False)
        arrays = dict(loaded) if file.suffix.lower() == ".npz" else {_only(model, file).name: loaded}
    except (OSError, ValueError, EOFError) as error:
        raise CheckpointError(
            f"{file}: not an array: {error}", hint="write it with numpy.save or numpy.savez"
        ) from None
    missing = [one.name for one in model.inputs if one.name not in arrays]
    if missing:
        raise UnsupportedError(f"{file}: no array for {', '.join(missing)}", hint=f"it has {', '.join(arrays)}")
    given = {one.name: _batched(arrays[one.name], one, file) for one in model.inputs}
    count = min(map(len, given.values()))
    return [{name: array[i : i + 1] for name, array in given.items()} for i in range(count)]


def _batched(array: NDArray[np.generic], wanted: Input, file: Path) -> NDArray[np.generic]:
    """With samples along the first axis."""
    whole = array[None] if array.ndim == len(wanted.shape) - 1 else array
    fits = whole.ndim == len(wanted.shape) and all(
        size is None or size == got for size, got in zip(wanted.shape[1:], whole.shape[1:], strict=True)
    )
    if not fits:
        raise UnsupportedError(
            f"{file}: {wanted.name} is {_shape(wanted.shape)}, and this is {list(array.shape)}",
            hint="one sample, or samples along the first axis",
        )
    return whole.astype(wanted.dtype, copy=False)


def _image(file: Path, model: FloatModel, picture: Picture) -> Sample:
    wanted = _only(model, file)
    height, width = picture.size or _size(wanted, file)
    pixels = _pixels(file, width, height)
    if len(wanted.shape) == 4 and wanted.shape[1] == 1:
        pixels = pixels.mean(axis=2, keepdims=True)
    values = (pixels - np.asarray(picture.mean, np.float32)) / np.asarray(picture.std, np.float32)
    last = len(wanted.shape) == 4 and wanted.shape[1] not in (None, 1, 3) and wanted.shape[3] in (1, 3)
    arranged = values if last else values.transpose(2, 0, 1)
    return {wanted.name: arranged[None].astype(wanted.dtype)}


def _size(wanted: Input, file: Path) -> tuple[int, int]:
    sizes = [size for size in wanted.shape[1:] if size not in (1, 3)]
    if len(wanted.shape) != 4 or len(sizes) != 2 or None in sizes:
        raise UnsupportedError(
            f"{file}: the model's input {wanted.name} is {_shape(wanted.shape)}, which gives images no size",
            hint="say --size HEIGHTxWIDTH",
        )
    return int(sizes[0] or 0), int(sizes[1] or 0)


def _pixels(file: Path, width: int, height: int) -> NDArray[np.float32]:
    try:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - an extra
    except ImportError:
        raise UnsupportedError(f"{file}: images need Pillow", hint="pip install 'halve[edge]'") from None
    try:
        with Image.open(file) as image:
            if image.width * image.height > _PIXELS:
                raise UnsupportedError(f"{file}: {image.width}x{image.height} pixels", hint="make it smaller")
            return np.asarray(image.convert("RGB").resize((width, height)), np.float32)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise CheckpointError(f"{file}: not an image: {error}", hint="remove it from the folder") from None


def _shape(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
