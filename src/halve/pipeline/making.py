"""From what is asked for to a plan, or to why that makes no sense; no weights are read."""

from collections.abc import Iterable
from dataclasses import replace
from typing import cast

from halve import algorithms, schemes
from halve.checkpoint.base import Checkpoint
from halve.checkpoint.onnx_source import only_layout
from halve.errors import UnsupportedError
from halve.evaluate.operands import KV_FORMATS, static_scale
from halve.pipeline.plan import Plan, default_layout, plan
from halve.pipeline.statistics import StatisticsFile
from halve.schemes import Block
from halve.schemes import conform as tools
from halve.schemes.quantize import ScaleRule, check_rule
from halve.schemes.recipe import OnNonfinite, Recipe


def make_plan(
    checkpoint: Checkpoint,
    scheme: str,
    *,
    layout: str | None = None,
    rule: str | None = None,
    algorithm: str | None = None,
    statistics: StatisticsFile | None = None,
    transforms: Iterable[str] = (),
    kv: str | None = None,
    conform: str | None = None,
    ignore: Iterable[str] = (),
    include: Iterable[str] = (),
    overrides: Iterable[tuple[str, str]] = (),
    on_nonfinite: OnNonfinite | None = None,
) -> Plan:
    """What `quantize` with these arguments will do to ``checkpoint``; reads no weights. Raises as `quantize` does."""
    row = schemes.get(scheme)
    chosen = algorithms.get(algorithm or ("rtn" if statistics is None else "hessian_diag"))
    if chosen.needs != "nothing" and statistics is None:
        raise UnsupportedError(
            f"{chosen.name} needs the statistics of activations",
            hint="add --calibrate builtin, or --stats with a file of `halve calibrate`",
        )
    if chosen.needs == "hessian" and statistics is not None and not statistics.hessians:
        raise UnsupportedError(
            f"{chosen.name} needs Hessians, which {statistics.path} does not hold",
            hint="`halve calibrate --hessians` gathers them; hessian_diag needs none",
        )
    recipe = Recipe(
        scheme=scheme,
        layout=layout or only_layout(checkpoint) or default_layout(row),
        rule=rule if conform else check_rule(row.weight, cast("ScaleRule | None", rule)),
        algorithm=chosen.name,
        statistics="" if statistics is None else statistics.sha256,
        transforms=tuple(transforms),
        kv=kv or "",
        conform=conform or "",
        ignore=tuple(ignore),
        include=tuple(include),
        overrides=tuple(overrides),
        on_nonfinite=on_nonfinite or "error",
    )
    if (quantized := checkpoint.quantization) is not None:
        named = quantized if isinstance(quantized, dict) else {}
        method = named.get("quant_method") or named.get("quant_algo") or "its config does not say how"
        raise UnsupportedError(
            f"{checkpoint.path} is already quantized ({method})",
            hint="start from the 16- or 32-bit original, or requantize it with `halve convert --scheme`",
        )
    job = plan(checkpoint, recipe)
    if statistics is not None and not statistics.maxima:
        _check_maxima(job, statistics)
    if conform:
        _check_conform(conform, job)
    return replace(job, kv=_kv_scales(kv, job, statistics)) if kv else job


def _check_maxima(job: Plan, statistics: StatisticsFile) -> None:
    """Raise UnsupportedError where ``job`` needs the largest inputs, which ``statistics`` do not hold."""
    static = next((scheme.name for scheme in job.schemes.values() if scheme.activation_static), None)
    if static or "smoothquant" in job.recipe.transforms:
        raise UnsupportedError(
            f"{static or 'smoothquant'} needs the largest inputs of each layer, and {statistics.path} tells "
            "their mean squares only",
            hint="gather statistics with `halve calibrate`, or choose a scheme with activations in 16 bits",
        )


def _check_conform(conform: str, job: Plan) -> None:
    """Raise UnsupportedError where the tool ``conform`` cannot be followed, UnknownNameError where nobody knows it."""
    tool = tools.get(conform)
    if job.recipe.algorithm != "rtn" or job.recipe.transforms:
        raise UnsupportedError(
            f"{conform}'s arithmetic is rounding to nearest, and {job.recipe.algorithm} is asked for",
            hint="leave out --conform, or the statistics and transforms",
        )
    for scheme in job.schemes.values():
        if why := tool.refusal(scheme.weight):
            raise UnsupportedError(why, hint="leave out --conform, or choose another scheme")
    rules = tool.rules(job.scheme.weight)
    if job.recipe.rule and job.recipe.rule not in rules:
        raise UnsupportedError(
            f"{conform} has no scale rule {job.recipe.rule!r} for {job.scheme.name}",
            hint=f"use {' or '.join(rules)}" if rules else "leave out the rule: its arithmetic is its own",
        )


def _kv_scales(kv: str, job: Plan, statistics: StatisticsFile | None) -> dict[str, tuple[float, float]]:
    """The scales under which keys and values fill FP8. Raises UnsupportedError where they cannot be known or stored."""
    if kv not in KV_FORMATS:
        raise UnsupportedError(f"no engine stores keys and values as {kv!r}", hint=f"known: {', '.join(KV_FORMATS)}")
    amax = {} if statistics is None else statistics.kv_amax()
    if not amax:
        raise UnsupportedError(
            "scales of keys and values need the statistics of activations",
            hint="add --calibrate builtin, or --stats with a file of `halve calibrate`",
        )
    block = Block(element=KV_FORMATS[kv], block_size="tensor")
    for attention in amax:
        job.layout.kv_entries(attention)
    return {a: (static_scale(block, keys), static_scale(block, values)) for a, (keys, values) in amax.items()}
