"""Measured points out of a csv: what each row ran on what, in our words, or why it cannot be told.

Columns: model, gpu, tp, pp, dp, engine, precision, kv, isl, osl, concurrency, scenario, value, ttft_ms, tpot_ms. One
rule drops rows as impossible: less than one device or sequence, tp beyond the devices that a link joins (`Parallel`).
"""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from math import isfinite
from pathlib import Path

from halve import document, schemes
from halve.errors import CheckpointError, HalveError
from halve.hardware import Machine
from halve.hardware import find as find_machine
from halve.models import catalog
from halve.models.shape import Role, Shape
from halve.plan.parallel import Parallel
from halve.plan.precision import WIDE, Precision

COLUMNS = ("model", "gpu", "tp", "pp", "dp", "engine", "precision", "isl", "osl", "concurrency", "scenario", "value")
# How measured tables call precisions -> scheme. "w:fp8 a:fp8" and "gemm:fp8 moe:fp8" are taken apart first.
_SCHEMES = {
    "nvfp4": "nvfp4",
    "fp4": "nvfp4",
    "mxfp4": "mxfp4a16",
    "w4a16_mxfp4": "mxfp4a16",
    "w4a8_mxfp4_mxfp8": "mxfp4",
    "fp8": "fp8_dynamic",
    "fp8_block": "fp8_block",
    "fp16": "fp16",
    "f16": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "float16": "fp16",
    "int4_wo": "w4a16",
    "int4": "w4a16",
    "w4a16": "w4a16",
    "w4a16_g128": "w4a16",
    "4bit": "int4_g32",
    "q4_0": "int4_g32",
    "q8_0": "int8_g32",
    "w8a8": "w8a8",
    "int8": "w8a8",
}
_WHOLE = ("RKLLM", "llama.cpp")  # engines that quantize the head, too
_EXPERTS_ONLY = ("gpt-oss",)  # published with experts in MXFP4 and the rest in 16 bits
# Their NVFP4 checkpoints (nvidia/...-NVFP4, hf_quant_config.json, exclude_modules) and Kimi's own INT4 one
# (quantization_config, ignore) keep attention in 16 bits; the latter also everything but the experts.
_ATTENTION_KEPT = ("DeepSeek-", "Kimi-", "MiniMax-", "GLM-5")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A measurement. ``measured`` is TPOT in seconds online and of single streams, tokens a second offline."""

    row: str
    kind: str  # online, offline, single
    shape: Shape
    machine: Machine
    engine: str
    precision: Precision
    parallel: Parallel
    prompt: float
    output: float
    concurrency: float  # sequences in all groups; 0 where the engine chose
    measured: float
    ttft: float = 0.0  # seconds to the first token; 0 where it was not measured


@dataclass(frozen=True, slots=True)
class Left:
    """A row that is not predicted, and why. ``impossible`` by the stated rule, else a name or number is unknown."""

    row: str
    why: str
    impossible: bool = False


def read(path: str | Path) -> Iterator[Point | Left]:
    """Every row of the csv ``path``. Raises CheckpointError where it cannot be read or lacks columns."""
    try:
        text = document.read(Path(path), document.CONFIG_LIMIT).decode()
        rows = list(csv.DictReader(StringIO(text, newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CheckpointError(f"{path}: {error}", hint="give a csv file of measured points") from None
    missing = [name for name in COLUMNS if not rows or name not in rows[0]]
    if missing:
        raise CheckpointError(f"{path} lacks the columns {', '.join(missing)}", hint="its first line names them")
    for index, row in enumerate(rows):
        yield point(row, row.get("id") or f"line {index + 2}")


def point(row: Mapping[str, str], name: str) -> Point | Left:
    """What one row says."""
    if missing := [column for column in COLUMNS if row.get(column) is None]:  # csv gives None where a line is short
        return Left(name, f"the row ends before {missing[0]}")
    try:
        shape, machine = catalog.find(row["model"]), find_machine(row["gpu"])
        parallel = _parallel(row)
        kind, measured, concurrency = _measured(row)
        prompt, output = float(row["isl"]), float(row["osl"])
        ttft = float(row.get("ttft_ms") or 0) / 1e3 if kind == "online" else 0.0
        engine = engine_of(row["engine"])
        precision = precision_of(row["precision"], shape, machine, engine)
    except (HalveError, ValueError, ArithmeticError, TypeError) as error:
        return Left(name, str(error))
    found = Point(
        row=name,
        kind=kind,
        shape=shape,
        machine=machine,
        engine=engine,
        precision=precision,
        parallel=parallel,
        prompt=prompt,
        output=output,
        concurrency=concurrency,
        measured=measured,
        ttft=ttft,
    )
    if why := _impossible(found):
        return Left(name, why, impossible=True)
    why = _unknown(found)
    return Left(name, why) if why else found


def _impossible(found: Point) -> str:
    """The stated rule: why no such run can have been; empty where it can."""
    if why := found.parallel.why_impossible(found.shape, found.machine):
        return why
    if found.output < 1:
        return "no token was written"
    if found.measured <= 0 or (found.kind == "online" and found.concurrency < 1):
        return "nothing was measured, or no sequence ran"
    return ""


def _unknown(found: Point) -> str:
    """Which number that a prediction needs is not known; empty where all are."""
    if not all(isfinite(n) for n in (found.measured, found.prompt, found.output, found.concurrency)):
        return "no finite number was measured"
    if found.machine.bandwidth_gbs.value is None:
        return f"the bandwidth of {found.machine.name} is not known"
    if found.parallel.devices > 1 and found.machine.link_gbs.value is None:
        return f"the link of {found.machine.name} is not known"
    return ""


def engine_of(text: str) -> str:
    """The engine's name without its version; dates stand for llama.cpp's builds."""
    lower = text.lower()
    for key, name in (("trt", "TensorRT-LLM"), ("vllm", "vLLM"), ("sglang", "SGLang"), ("rkllm", "RKLLM")):
        if key in lower:
            return f"{name} static" if "static" in lower or "0.5" in lower.split("llm")[-1][:5] else name
    return "llama.cpp" if re.match(r"20\d\d", text) else text


def precision_of(text: str, shape: Shape, machine: Machine, engine: str) -> Precision:
    """What a table's words for a precision mean. Raises ValueError for words that are not known."""
    weights, experts = text, ""
    if found := re.match(r"gemm:(\S*) moe:(\S*)", text):
        weights, experts = found[1], found[2]
    elif found := re.match(r"w:(\S+)", text):
        weights = found[1]
    names = [_scheme(weights), _scheme(experts or weights)]
    roles: dict[Role, schemes.Scheme] = {}
    if shape.name.startswith(_EXPERTS_ONLY):
        native = machine.formats["mxfp4"].level == "native"
        roles = {role: schemes.get(WIDE) for role in ("attention", "mlp", "shared")}
        return Precision(schemes.get("mxfp4" if native else "mxfp4a16"), roles=roles)
    if shape.name.startswith(_ATTENTION_KEPT) and names[0] in ("nvfp4", "w4a16"):
        roles["attention"] = schemes.get(WIDE)
        if names[0] == "w4a16":
            roles |= {"mlp": schemes.get(WIDE), "shared": schemes.get(WIDE)}
    if names[1] != names[0]:
        roles["expert"] = schemes.get(names[1])
    if engine in _WHOLE:
        roles["head"] = schemes.get(names[0])
    kv = "fp8" if engine.startswith("TensorRT") and names[0] not in ("fp16", "bf16") else WIDE
    return Precision(schemes.get(names[0]), kv, roles)


def _scheme(name: str) -> str:
    if name.lower() not in _SCHEMES:
        raise ValueError(f"unknown precision {name!r}")
    return _SCHEMES[name.lower()]


def _parallel(row: Mapping[str, str]) -> Parallel:
    try:
        tp, pp, dp = (int(float(row[key] or 1)) for key in ("tp", "pp", "dp"))
    except ValueError:
        raise ValueError("the row does not say how the model was cut") from None
    return Parallel(tp, pp, dp)


def _measured(row: Mapping[str, str]) -> tuple[str, float, float]:
    """Kind, figure and sequences. Raises ValueError for scenarios whose figure is not one of ours."""
    scenario = row["scenario"]
    if "AMBIGUOUS" in scenario:
        raise ValueError("the row's unit is ambiguous")
    if scenario.startswith("online"):
        return "online", float(row.get("tpot_ms") or "") / 1e3, float(row["concurrency"])
    if scenario == "single_stream":
        return "single", 1 / float(row["value"]), 1.0
    if scenario == "offline_max":
        return "offline", float(row["value"]), 0.0
    if scenario == "static_batch":
        return "offline", float(row["value"]), float(row["concurrency"])
    raise ValueError(f"scenario {scenario!r} has no prompt length or no cut")
