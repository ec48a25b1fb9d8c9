"""Run in the toolkit's environment, which has no halve: ``worker.py JOB``, a JSON file, with the answer beside it.

A process of its own, for the toolkit writes where it stands, prints at will, and may die of a signal.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rknn.api import RKNN


class StepError(Exception):
    """A step that the toolkit says has failed."""


def step(what: str, code: int) -> None:
    """Raise StepError unless ``code`` is 0."""
    if code != 0:
        raise StepError(f"{what} failed")


def hybrid(job: dict[str, Any]) -> tuple[RKNN, dict[str, int]]:
    """Quantize with our ranges in place of the toolkit's."""
    first = RKNN(verbose=False)
    first.config(target_platform=job["target"])
    step("load_onnx", first.load_onnx(model=job["model"]))
    step("hybrid_quantization_step1", first.hybrid_quantization_step1(dataset=job["dataset"], proposal=False))
    first.release()
    model, data, config = (str(next(Path().glob(end))) for end in ("*.model", "*.data", "*.quantization.cfg"))
    told = edited(Path(config), job)
    rknn = RKNN(verbose=False)
    code = rknn.hybrid_quantization_step2(model_input=model, data_input=data, model_quantization_cfg=config)
    step("hybrid_quantization_step2", code)
    return rknn, told


def edited(path: Path, job: dict[str, Any]) -> dict[str, int]:
    """Put our ranges into the toolkit's file of them; how many there were.

    Lines are replaced one by one, for the toolkit refuses a file in which another number is written differently. A
    tensor is a line ``NAME:`` under ``quantize_parameters:``; what is known of it is indented more, numbers are items.
    """
    lines = path.read_text().splitlines()
    first = lines.index("quantize_parameters:") + 1
    indent = len(lines[first]) - len(lines[first].lstrip())
    name, tensors, kept = "", 0, 0
    known: dict[str, str] = {}
    wide = []
    for at, line in enumerate(lines[first:], first):
        key, _, value = line.strip().partition(":")
        if len(line) - len(line.lstrip()) == indent and not key.startswith("- "):
            name, known, tensors = line.strip().removesuffix(":").strip("'\""), {}, tensors + 1
            if name in job["float16"]:
                wide.append(name)
            continue
        known[key] = value.strip()
        alone = known.get("qmethod") == "layer" and known.get("dtype") == "int8" and name in job["ranges"]
        if key in ("min", "max") and alone and lines[at + 1].strip().startswith("- "):
            item = lines[at + 1]
            lines[at + 1] = f"{item[: item.index('-')]}- {job['ranges'][name][key == 'max']!r}"
            kept += key == "max"
    if wide:
        at = lines.index("custom_quantize_layers: {}")
        lines[at : at + 1] = ["custom_quantize_layers:", *(f"  {one}: float16" for one in wide)]
    path.write_text("\n".join(lines) + "\n")
    return {"kept": kept, "tensors": tensors, "float16": len(wide)}


def built(job: dict[str, Any]) -> tuple[RKNN, dict[str, int]]:
    """Build the model as it is (``direct``), or quantize it by an ``algorithm`` of the toolkit (``own``)."""
    rknn = RKNN(verbose=False)
    quantize = {"quantized_algorithm": job["algorithm"]} if job["route"] == "own" else {}
    rknn.config(target_platform=job["target"], **quantize)
    step("load_onnx", rknn.load_onnx(model=job["model"]))
    step("build", rknn.build(do_quantization=bool(quantize), dataset=job["dataset"] if quantize else None))
    return rknn, {}


def simulate(rknn: RKNN, job: dict[str, Any]) -> None:
    """Save what the simulator makes of the inputs to judge by."""
    step("init_runtime of the simulator", rknn.init_runtime())
    found: dict[str, list[Any]] = {}
    for sample in job["judging"]:
        inputs = [np.load(path) for path in sample]
        layouts = ["nchw" if one.ndim == 4 else "undefined" for one in inputs]
        outputs = rknn.inference(inputs=inputs, data_format=layouts)
        step("the simulator", 0 if outputs is not None else 1)
        for at, value in enumerate(outputs):
            found.setdefault(f"output_{at}", []).append(np.asarray(value, np.float32))
    arrays: Any = {name: np.stack(values) for name, values in found.items()}
    np.savez(job["simulated"], **arrays)


def main() -> None:
    """Do the job."""
    path = Path(sys.argv[1])
    job = json.loads(path.read_text())
    os.chdir(job["work"])
    try:
        rknn, told = hybrid(job) if job["route"] == "hybrid" else built(job)
        step("export_rknn", rknn.export_rknn(job["out"]))
        simulate(rknn, job)
        rknn.release()
        answer: dict[str, Any] = dict(told)
    except StepError as error:
        answer = {"error": str(error)}
    path.with_name(f"{path.name}.answer").write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
