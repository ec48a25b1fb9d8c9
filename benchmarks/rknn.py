"""INT8 of `halve edge` in RKNN's simulator, beside the toolkit's own quantization of the float model.

    pip install 'halve[edge]' scikit-image
    python benchmarks/rknn.py --accept-rknn-license [--model NAME] [--judging 20] [--json]

Both get the same calibration inputs and are judged on inputs of other photographs, by the SQNR of the outputs in the
toolkit's simulator of an RK3588. The toolkit's environment is made in halve's cache the first time (2 GB).
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx

from edge_models import MODELS, EdgeModel, Sample
from halve.edge import ptq
from halve.edge.model import load
from halve.edge.qdq import quantized
from halve.edge.rknn.environment import TOOLKIT, environment
from halve.edge.rknn.export import fixed
from halve.edge.rknn.stripped import stripped
from halve.edge.running import Session, compared
from halve.pipeline.cache import cache_dir
from measure import Figure

WORKER = Path(__file__).resolve().parents[1] / "src" / "halve" / "edge" / "rknn" / "worker.py"
OCR = ("ppocr_cls", "ppocr_rec", "ppocr_det")
THEIRS = ("normal", "kl_divergence", "mmse")
CALIBRATING = 48


def simulated(python: Path, job: dict[str, object], work: Path) -> list[np.ndarray] | None:
    """Outputs of the simulator; None where the toolkit fails."""
    told = work / "job.json"
    told.write_text(json.dumps(job))
    done = subprocess.run([python, "-I", WORKER, told], capture_output=True, text=True, timeout=3600, check=False)
    answer = work / "job.json.answer"
    if done.returncode or not answer.exists() or "error" in json.loads(answer.read_text()):
        print(
            f"{job['route']} {job.get('algorithm', '')}: exit code {done.returncode}, {done.stderr[-200:]}", flush=True
        )
        return None
    answer.unlink()
    with np.load(work / "simulated.npz") as found:
        return list(found["output_0"])


def write(samples: list[Sample], name: str, work: Path) -> list[list[str]]:
    """Samples as files, a list for each of its inputs."""
    paths = []
    for number, sample in enumerate(samples):
        paths.append([str(work / f"{name}-{number}-{at}.npy") for at in range(len(sample))])
        for path, value in zip(paths[-1], sample.values(), strict=True):
            np.save(path, value)
    return paths


def measure(model: EdgeModel, judging: int, python: Path, *, as_json: bool) -> None:
    """Print the figures of a model."""
    calibrating, judges = model.samples(CALIBRATING, judging=False), model.samples(judging, judging=True)
    exact = load(model.path())
    session = Session(exact.proto)
    reference = [session.run(sample, exact.outputs[:1]) for sample in judges]
    found = ptq.calibrate(exact, calibrating)
    scores: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        dataset = work / "dataset.txt"
        dataset.write_text("\n".join(" ".join(paths) for paths in write(calibrating, "c", work)))
        ours, original = work / "ours.onnx", work / "float.onnx"
        onnx.save(quantized(found.model, found.integers), str(ours))
        between = stripped(ours)
        onnx.save(fixed(between.proto, judges[0]), str(ours))
        onnx.save(fixed(exact.proto, judges[0]), str(original))
        common = {
            "target": "rk3588",
            "dataset": str(dataset),
            "judging": write(judges, "j", work),
            "ranges": between.ranges,
            "float16": [],
            "work": str(work / "at"),
            "out": str(work / "out.rknn"),
            "simulated": str(work / "simulated.npz"),
        }
        jobs = {"halve": {"route": "hybrid", "model": str(ours)}}
        jobs |= {name: {"route": "own", "model": str(original), "algorithm": name} for name in THEIRS}
        for name, job in jobs.items():
            at = Path(common["work"])
            at.mkdir()
            outputs = simulated(python, common | job, work)
            subprocess.run(["rm", "-r", str(at)], check=True)
            shaped = outputs and [[one.reshape(ref[0].shape)] for one, ref in zip(outputs, reference, strict=True)]
            scores[name] = compared(reference, shaped) if shaped else None
            print(f"{model.name} {name}: {scores[name]}", flush=True)
    peers = {name: value for name, value in scores.items() if name != "halve" and value is not None}
    best = max(peers, key=lambda name: peers[name]) if peers else ""
    value = scores["halve"]
    gain = value - peers[best] if value is not None and best else None
    Figure(
        metric=f"rknn_sqnr_{model.name}",
        value=value,
        unit="dB",
        goal="best, or within 1 dB (stretch: best)",
        met=gain is not None and gain >= -1,
        peer=f"rknn {best}",
        peer_value=peers.get(best),
        ratio=gain,
    ).print(as_json=as_json)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", action="append", choices=OCR, help="repeatable")
    parser.add_argument("--judging", type=int, default=20, help="inputs to judge by: the simulator is slow")
    parser.add_argument("--accept-rknn-license", action="store_true")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    python = environment(cache_dir() / TOOLKIT.replace("==", "-"), accepted=args.accept_rknn_license)
    for model in MODELS:
        if model.name in (args.model or OCR):
            measure(model, args.judging, python, as_json=args.json)


if __name__ == "__main__":
    main()
