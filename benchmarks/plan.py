"""How far the planner is off on measured points.

    python benchmarks/plan.py --points FILE [--json]               # the shipped factors, nothing is fitted
    python benchmarks/plan.py --points FILE --left-out [--json]    # refitted without each model in turn
    python benchmarks/plan.py --points FILE --left-out --peer      # and beside aiconfigurator where it has an estimate

FILE is a csv with the columns that `halve.plan.points` names. Rows with unknown names or numbers are listed and
counted. Errors of the shipped factors on the points that they were fitted to are no test: ``--left-out`` is.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np

import peers
from halve.plan import fit
from halve.plan.factors import fitted
from halve.plan.points import Left, Point, read
from halve.plan.prediction import cases, predict
from measure import Figure

MEDIANS = {  # kind -> metric, goal
    "online": ("online_tpot_median_error", 0.20),
    "offline": ("offline_toks_median_error", 0.25),
    "single": ("single_stream_median_error", 0.20),
}
TWICE, COVERED = 0.96, (0.75, 0.85)

# How aiconfigurator calls machines, engines and precisions
SYSTEMS = {"H100-SXM": "h100_sxm", "H200-SXM": "h200_sxm", "B200": "b200_sxm", "B300": "b300_sxm"}
SYSTEMS |= {"GB200-NVL72": "gb200", "GB300-NVL72": "gb300", "A100-80GB-SXM": "a100_sxm", "L40S": "l40s"}
BACKENDS = {"TensorRT-LLM": "trtllm", "vLLM": "vllm", "SGLang": "sglang"}
MODES = {"nvfp4": "nvfp4", "fp8_dynamic": "fp8", "fp8_block": "fp8_block", "w4a16": "int4_wo", "bf16": "bfloat16"}
MODES |= {"mxfp4a16": "w4a16_mxfp4", "mxfp4": "w4a8_mxfp4_mxfp8"}


def shipped(points: list[Point]) -> np.ndarray:
    """log(predicted / measured) under the shipped factors."""
    found = []
    for point in points:
        factors = fitted().factors(point.kind, point.engine, point.machine.generation, point.precision.scheme.name)
        found.append(float(np.log(predict(cases([point]), factors)[0] / point.measured)))
    return np.array(found)


def inside(points: list[Point], residuals: np.ndarray) -> float:
    """Share of the points within the shipped p10-p90."""
    ends = [fitted().interval(point.kind, point.machine.name) for point in points]
    return float(np.mean([low <= np.exp(-r) <= high for (low, high), r in zip(ends, residuals, strict=True)]))


def errors(points: list[Point], residuals: np.ndarray, covered: float, prefix: str, *, as_json: bool) -> None:
    """Print the figures."""
    kinds = np.array([point.kind for point in points])
    for kind, (metric, goal) in MEDIANS.items():
        if (kinds == kind).any():
            error = float(np.median(np.abs(np.expm1(residuals[kinds == kind]))))
            Figure(metric=prefix + metric, value=error, unit="", goal=f"<= {goal}", met=error <= goal).print(
                as_json=as_json
            )
    twice = float(np.mean(np.abs(residuals) <= np.log(2)))
    Figure(metric=f"{prefix}within_2x", value=twice, unit="", goal=f">= {TWICE}", met=twice >= TWICE).print(
        as_json=as_json
    )
    low, high = COVERED
    Figure(
        metric=f"{prefix}interval_coverage", value=covered, unit="", goal=f"{low}-{high}", met=low <= covered <= high
    ).print(as_json=as_json)


def asked(point: Point) -> dict[str, object] | None:
    """What aiconfigurator is asked for a point of a server; None where it does not know the machine or the engine."""
    published = re.match(r"config\.json of (\S+?),? ", point.shape.source + " ")
    if point.kind != "online" or point.machine.name not in SYSTEMS or point.engine not in BACKENDS or not published:
        return None
    cut = point.parallel
    wide = point.precision.of("attention").dense
    arguments = {
        "model_path": published[1],
        "system_name": SYSTEMS[point.machine.name],
        "backend_name": BACKENDS[point.engine],
        "isl": int(point.prompt),
        "osl": int(point.output),
        "batch_size": max(round(point.concurrency / cut.dp), 1),
        "tp_size": cut.tp,
        "pp_size": cut.pp,
        "attention_dp_size": cut.dp,
        "gemm_quant_mode": "bfloat16" if wide else MODES.get(point.precision.scheme.name),
        "kvcache_quant_mode": "fp8" if point.precision.kv == "fp8" else "bfloat16",
    }
    if any(layer.mlp.experts for layer in point.shape.layers):
        arguments |= {"moe_tp_size": 1, "moe_ep_size": cut.tp * cut.dp}
        arguments["moe_quant_mode"] = MODES.get(point.precision.of("expert").name)
    return arguments


def beside(points: list[Point], residuals: np.ndarray, *, as_json: bool) -> None:
    """Print both errors where aiconfigurator has an estimate."""
    python = peers.python("aiconfigurator")
    if python is None:
        raise SystemExit("run `python benchmarks/peers.py aiconfigurator --prepare`")
    wanted = [(index, found) for index, point in enumerate(points) if (found := asked(point)) is not None]
    lines = "\n".join(json.dumps(found) for _, found in wanted)
    runner = peers.RUNNERS / "aiconfigurator_tpot.py"
    done = subprocess.run([python, "-I", runner], input=lines, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    both = [
        (abs(np.expm1(residuals[index])), abs(answer / points[index].measured - 1))
        for (index, _), answer in zip(wanted, answers, strict=True)
        if answer
    ]
    ours, theirs = (float(np.median(side)) for side in zip(*both, strict=True))
    Figure(
        metric=f"beside_aiconfigurator_{len(both)}_points",
        value=ours,
        unit="",
        peer="aiconfigurator",
        peer_value=theirs,
        ratio=ours / theirs,
        goal="below its error (stretch 0.7 of it)",
        met=ours < theirs,
    ).print(as_json=as_json)


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=Path, required=True)
    parser.add_argument("--left-out", action="store_true", help="refit without each model, and without each machine")
    parser.add_argument("--peer", action="store_true", help="with --left-out: beside aiconfigurator")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = list(read(options.points))
    points = [row for row in rows if isinstance(row, Point)]
    left = [row for row in rows if isinstance(row, Left)]
    impossible = sum(row.impossible for row in left)
    counts = {
        "rows_predicted": len(points),
        "rows_unknown": len(left) - impossible,
        "rows_impossible": impossible,
    }
    reasons = Counter(row.why for row in left).most_common()
    if options.json:
        print(json.dumps(counts | {"left": [{"rows": n, "why": why} for why, n in reasons]}))
    else:
        print(", ".join(f"{name} {count}" for name, count in counts.items()))
        for why, count in reasons:
            print(f"  {count:4d} {why}")
    if not points:
        return 0
    if options.left_out:
        problem = fit.Problem.of(points)
        by_model = fit.left_out(problem, fit.model)
        shares = fit.coverage(problem, by_model)
        kinds = Counter(point.kind for point in points)
        covered = sum(shares[kind] * count for kind, count in kinds.items()) / len(points)
        errors(points, by_model, covered, "", as_json=options.json)
        if options.peer:
            beside(points, by_model, as_json=options.json)
        first = fit.first_left_out(problem)
        if len(first):
            error = float(np.median(np.abs(np.expm1(first))))
            Figure(metric="ttft_median_error", value=error, unit="", goal="printed", met=True).print(
                as_json=options.json
            )
        by_machine = fit.left_out(problem, lambda point: point.machine.name)
        for kind, (metric, _) in MEDIANS.items():
            of_kind = np.array([point.kind == kind for point in points])
            error = float(np.median(np.abs(np.expm1(by_machine[of_kind])))) if of_kind.any() else None
            Figure(metric=f"machine_left_out_{metric}", value=error, unit="", goal="printed", met=True).print(
                as_json=options.json
            )
    else:
        residuals = shipped(points)
        seen = hashlib.sha256(options.points.read_bytes()).hexdigest() == fitted().about["points_sha256"]
        prefix = "in_sample_" if seen else "shipped_"
        errors(points, residuals, inside(points, residuals), prefix, as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
