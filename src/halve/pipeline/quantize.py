"""The main job: a checkpoint in, a quantized one out, in a new folder."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, cast

from halve import algorithms, layouts, schemes
from halve.checkpoint.base import Checkpoint
from halve.checkpoint.onnx_source import only_layout
from halve.checkpoint.source import open_checkpoint
from halve.errors import UnsupportedError
from halve.evaluate.operands import KV_FORMATS, static_scale
from halve.pipeline.budget import Budget
from halve.pipeline.budget import overrides as overrides_within
from halve.pipeline.calibrate import calibrate as gather
from halve.pipeline.calibration import Calibration
from halve.pipeline.experts import unpacked
from halve.pipeline.output import Output
from halve.pipeline.pick import pick
from halve.pipeline.plan import SHARD_BYTES, Plan, check_scheme, default_layout, plan
from halve.pipeline.progress import ProgressCallback
from halve.pipeline.quantizing import QuantizeResult, Quantizing, nonfinite
from halve.pipeline.resuming import described, finished
from halve.pipeline.smoothing import fold, foldable
from halve.pipeline.statistics import StatisticsFile
from halve.pipeline.workspace import Workspace, check_free
from halve.schemes import Block
from halve.schemes import conform as tools
from halve.schemes.quantize import ScaleRule, check_rule
from halve.schemes.recipe import OnNonfinite, Recipe
from halve.transforms import usual as transforms_of

AUTO = "auto"
CANDIDATES = ("hessian_diag", "gptq")  # the safest first


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


def planned(
    source: str | Path,
    scheme: str,
    *,
    stats: str | Path | None = None,
    budget: Budget | None = None,
    allow: Sequence[str] = (),
    threads: int | None = None,
    **choices: Any,
) -> Plan:
    """`make_plan` for a checkpoint and a statistics file by their paths; what a ``budget`` buys is measured."""
    statistics = None if stats is None else StatisticsFile(Path(stats))
    choices["transforms"] = choices.get("transforms") or ()  # whatever they are, sizes stay
    checkpoint = open_checkpoint(source)
    try:
        seen = _seen(checkpoint, scheme, choices)
        if budget is not None:
            known = {"layout": None, "overrides": (), **choices, "statistics": statistics}
            bought = _within(budget, seen, (scheme, *allow), known, threads)
            choices["overrides"] = (*known["overrides"], *bought)
        return make_plan(seen, scheme, statistics=statistics, **choices)
    finally:
        checkpoint.close()


def quantize(
    source: str | Path | Checkpoint,
    out: str | Path,
    scheme: str,
    *,
    layout: str | None = None,
    rule: str | None = None,
    algorithm: str | None = None,
    stats: str | Path | None = None,
    calibrate: Sequence[str] = (),
    transforms: Iterable[str] | None = None,
    kv: str | None = None,
    conform: str | None = None,
    ignore: Iterable[str] = (),
    include: Iterable[str] = (),
    overrides: Iterable[tuple[str, str]] = (),
    budget: Budget | None = None,
    allow: Sequence[str] = (),
    on_nonfinite: OnNonfinite | None = None,
    shard_bytes: int = SHARD_BYTES,
    threads: int | None = None,
    resume: bool = False,
    progress: ProgressCallback | None = None,
) -> QuantizeResult:
    """Quantize the checkpoint ``source`` (folder, GGUF file or ``org/name[@revision]``) into the new folder ``out``.

    ``scheme`` and ``layout`` are names from `halve schemes`; ``rule`` is a scale rule of the scheme; ``ignore`` and
    ``include`` name tensors or modules (``re:`` for a regular expression), ``overrides`` are pairs of such a name and
    another scheme for it. ``on_nonfinite="keep"`` leaves tensors that hold NaN or Inf, and what is fused with them, in
    their source type, at the price of one more read.

    ``stats`` is a file of statistics (`halve calibrate`); ``calibrate`` names texts, or ``builtin``, to make one for
    this job alone. With either, ``algorithm`` chooses codes for what the layers are fed, and schemes with static
    activations get their scales. ``algorithm="auto"``, the default with Hessians, quantizes with hessian_diag and with
    gptq and keeps what loses less on held-out text. ``transforms`` rewrite the model exactly, beforehand; by default,
    with ``auto``, what usually pays for the scheme.

    ``kv="fp8"`` adds the scales under which engines cache keys and values in FP8.

    ``conform`` follows the arithmetic of compressed-tensors, modelopt or torchao, code for code.

    ``budget`` mixes ``scheme`` with the schemes ``allow``, by layer, so that the result is no larger and loses least.

    ``progress`` is called with a `Progress`, never from two threads at once. The bytes written do not depend on
    ``threads``.

    A job that is interrupted leaves what it has finished in ``out`` (``out/.halve`` has its journal); with ``resume``
    the same call goes on behind that, starts where there is nothing, and returns at once where all is done. The result
    is that of an uninterrupted job, byte for byte.

    Raises UnsupportedError, RecipeError or FormatError before anything is read where the job makes no sense,
    CheckpointError for a damaged source and for statistics of another model, FormatError for NaN or Inf in a weight,
    OutputError where ``out`` exists, the disk is full, or what is to be resumed is another job. Where nothing worth
    keeping was finished, nothing is left at ``out`` after an error.
    """
    began = perf_counter()
    out = Path(out)
    with ExitStack() as stack:
        checkpoint = open_checkpoint(source) if isinstance(source, str | Path) else source
        if checkpoint is not source:
            stack.callback(checkpoint.close)
        choices: dict[str, Any] = {
            "layout": layout,
            "rule": rule,
            "transforms": () if transforms is None else tuple(transforms),
            "kv": kv,
            "conform": conform,
            "ignore": tuple(ignore),
            "include": tuple(include),
            "overrides": tuple(overrides),
            "on_nonfinite": on_nonfinite,
        }
        asked = choices | {"scheme": scheme, "algorithm": algorithm}
        if resume and (done := finished(checkpoint, out, asked)):
            return replace(done, seconds=perf_counter() - began)
        check_free(out, resume=resume)
        if stats is not None:
            stats = Path(stats)
            asked["statistics"] = StatisticsFile(stats).sha256
        asked |= {"budget": budget and asdict(budget), "allow": allow, "shard size": shard_bytes}
        workspace = stack.enter_context(Workspace(out, described(checkpoint, asked, calibrate), resume=resume))
        if workspace.adopted:
            shutil.rmtree(workspace.path)
            return replace(cast("QuantizeResult", finished(checkpoint, out, {})), seconds=perf_counter() - began)
        if calibrate:
            row = schemes.get(scheme)
            check_scheme(row, layouts.get(layout or default_layout(row)), checkpoint, calibrated=True)
            hessians = algorithm in (None, AUTO, "gptq")
            stats = _gathered(workspace, checkpoint, calibrate, hessians=hessians, threads=threads)
        statistics = None if stats is None else StatisticsFile(Path(stats))
        choices["statistics"] = statistics
        if statistics is not None:
            statistics.check(checkpoint)
        checkpoint = _seen(checkpoint, scheme, choices)
        if transforms is None and algorithm in (None, AUTO) and statistics is not None and not (conform or budget):
            choices["transforms"] = _usual(checkpoint, scheme, choices)
        if budget is not None:
            choices["overrides"] += _within(budget, checkpoint, (scheme, *allow), choices, threads)
        jobs = {
            name: make_plan(checkpoint, scheme, algorithm=name, **choices)
            for name in _candidates(algorithm, statistics)
        }
        work = _Work(checkpoint, statistics, shard_bytes, threads, progress, workspace)
        if len(jobs) == 1:
            return work.write(next(iter(jobs.values())), out, began)
        made = {name: work.write(job, workspace.path / name, began) for name, job in jobs.items()}
        return _picked(checkpoint, made, workspace, began)


def _gathered(
    workspace: Workspace, checkpoint: Checkpoint, texts: Sequence[str], *, hessians: bool, threads: int | None
) -> Path:
    """The statistics of ``texts``: those that the job had gathered when it was interrupted, or new ones."""
    path = workspace.path / "statistics.safetensors"
    if not path.exists():
        gather(checkpoint, path, texts=texts, hessians=hessians, threads=threads)
    workspace.worth_keeping = True
    return path


def _usual(checkpoint: Checkpoint, scheme: str, choices: Mapping[str, Any]) -> tuple[str, ...]:
    """The transforms that pay for ``scheme``, where the architecture is known well enough for them."""
    usual = transforms_of(schemes.get(scheme))
    return usual if usual and foldable(checkpoint, make_plan(checkpoint, scheme, **choices)) else ()


def _seen(checkpoint: Checkpoint, scheme: str, choices: Mapping[str, Any]) -> Checkpoint:
    """``checkpoint`` with packed experts as the matrices that will be quantized."""
    row = schemes.get(scheme)
    layout = layouts.get(choices.get("layout") or only_layout(checkpoint) or default_layout(row))
    return unpacked(checkpoint, row, layout, choices.get("ignore", ()))


def _candidates(algorithm: str | None, statistics: StatisticsFile | None) -> tuple[str, ...]:
    """The algorithms to try."""
    if algorithm not in (None, AUTO):
        return (algorithm,)
    if statistics is None:
        if algorithm == AUTO:
            raise UnsupportedError(
                "auto chooses between algorithms that need the statistics of activations",
                hint="add --calibrate builtin, or --stats with a file of `halve calibrate`",
            )
        return ("rtn",)
    return CANDIDATES if statistics.hessians else CANDIDATES[:1]


def _within(
    budget: Budget,
    checkpoint: Checkpoint,
    names: Sequence[str],
    choices: Mapping[str, Any],
    threads: int | None,
) -> tuple[tuple[str, str], ...]:
    """The overrides that keep a mixture of the schemes ``names`` within ``budget``."""
    statistics = choices["statistics"]
    if statistics is None:
        raise UnsupportedError(
            "a budget needs the statistics of activations, which tell what each layer loses",
            hint="add --calibrate builtin, or --stats with a file of `halve calibrate`",
        )
    if choices["transforms"]:
        raise UnsupportedError("a budget and transforms do not go together yet", hint="leave out one of them")
    layout = choices["layout"] or default_layout(schemes.get(names[0]))
    fixed = {**choices, "layout": layout, "rule": None, "algorithm": "rtn"}
    jobs = {name: make_plan(checkpoint, name, **fixed) for name in names}
    return overrides_within(checkpoint, jobs, statistics, budget, threads)


@dataclass(frozen=True, slots=True)
class _Work:
    """What the candidates of a job have in common."""

    checkpoint: Checkpoint
    statistics: StatisticsFile | None
    shard_bytes: int
    threads: int | None
    progress: ProgressCallback | None
    workspace: Workspace

    def write(self, job: Plan, out: Path, began: float) -> QuantizeResult:
        with Output(self.workspace, out, job.nbytes) as output:
            if job.recipe.on_nonfinite == "keep":
                job = job.keep(nonfinite(self.checkpoint, job, self.threads))
            calibration = Calibration(self.statistics, fold(self.checkpoint, self.statistics, job, self.threads))
            run = Quantizing(self.checkpoint, job, calibration, output, self.progress)
            return run.run(self.shard_bytes, self.threads, began)


def _picked(
    checkpoint: Checkpoint, made: dict[str, QuantizeResult], workspace: Workspace, began: float
) -> QuantizeResult:
    """The better of ``made``, moved to where it belongs; the first where halve cannot run the model."""
    activations = any(result.plan.scheme.activation is not None for result in made.values())
    warnings: tuple[str, ...] = ()
    try:
        chosen = pick(checkpoint.path, {name: result.path for name, result in made.items()}, activations=activations)
    except UnsupportedError as error:
        chosen = None
        warnings = (f"{CANDIDATES[0]} was chosen untried, for halve cannot compare it with others: {error}",)
    best = made[CANDIDATES[0] if chosen is None else chosen.name]
    workspace.adopt(best.path.name)
    seconds = perf_counter() - began
    return replace(best, path=workspace.out, seconds=seconds, warnings=(*best.warnings, *warnings), pick=chosen)
