"""The main job: a checkpoint in, a quantized one out, in a new folder."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import halve
from halve import algorithms, layouts, schemes
from halve.checkpoint.base import Checkpoint
from halve.checkpoint.onnx_source import only_layout
from halve.checkpoint.place import Place, held_writing, place
from halve.checkpoint.source import open_checkpoint
from halve.errors import UnsupportedError
from halve.pipeline import shard
from halve.pipeline.budget import Budget
from halve.pipeline.budget import overrides as overrides_within
from halve.pipeline.calibrate import calibrate as gather
from halve.pipeline.calibration import Calibration
from halve.pipeline.cluster import Cluster
from halve.pipeline.cluster import check as check_cluster
from halve.pipeline.experts import unpacked
from halve.pipeline.job_log import JobLog
from halve.pipeline.making import make_plan
from halve.pipeline.memory import Memory, largest_group, whole_model, worker
from halve.pipeline.output import LocalOutput
from halve.pipeline.pick import pick
from halve.pipeline.plan import SHARD_BYTES, Plan, check_scheme, default_layout
from halve.pipeline.progress import ProgressCallback
from halve.pipeline.quantizing import QuantizeResult, Quantizing, nonfinite
from halve.pipeline.resuming import described, finished
from halve.pipeline.runnable import runnable
from halve.pipeline.smoothing import fold, foldable
from halve.pipeline.statistics import StatisticsFile
from halve.pipeline.store import StoreWorkspace, claim
from halve.pipeline.store import output as output_at
from halve.pipeline.workers import Crew, threads_available
from halve.pipeline.workspace import Workspace, check_free
from halve.schemes.recipe import OnNonfinite
from halve.transforms import usual as transforms_of

AUTO = "auto"
CANDIDATES = ("hessian_diag", "gptq")  # the safest first


def planned(
    source: str | Place,
    scheme: str,
    *,
    stats: str | Path | None = None,
    budget: Budget | None = None,
    allow: Sequence[str] = (),
    hardware: str | None = None,
    threads: int | None = None,
    memory: int | None = None,
    out: str | Place | None = None,
    **choices: Any,
) -> Plan:
    """`make_plan` for a checkpoint and a statistics file by their paths; what a ``budget`` buys is measured.

    ``out``, of which nothing is looked at, may be a URL: what is sent there takes memory, too.

    Raises as `quantize` does, and so LimitError where the job takes more than ``memory``.
    """
    allow = runnable(hardware, (scheme, *(name for _, name in choices.get("overrides", ()))), allow)
    statistics = None if stats is None else StatisticsFile(Path(stats))
    choices["transforms"] = choices.get("transforms") or ()  # whatever they are, sizes stay
    checkpoint = open_checkpoint(source)
    try:
        seen = _seen(checkpoint, scheme, choices)
        if budget is not None:
            known = {"layout": None, "overrides": (), **choices, "statistics": statistics}
            bought = _within(budget, seen, (scheme, *allow), known, threads=threads, memory=Memory(memory))
            choices["overrides"] = (*known["overrides"], *bought)
        job = make_plan(seen, scheme, statistics=statistics, **choices)
        limit = Memory(memory, writing=0 if out is None else held_writing(place(out)))
        _crew(limit, seen, job, statistics, threads)
        return job
    finally:
        checkpoint.close()


def quantize(
    source: str | Place | Checkpoint,
    out: str | Place,
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
    hardware: str | None = None,
    on_nonfinite: OnNonfinite | None = None,
    shard_bytes: int = SHARD_BYTES,
    threads: int | None = None,
    memory: int | None = None,
    cluster: str | None = None,
    resume: bool = False,
    log: Path | None = None,
    progress: ProgressCallback | None = None,
) -> QuantizeResult:
    """Quantize the checkpoint ``source`` (folder, GGUF file or ``org/name[@revision]``) into the new folder ``out``.

    Both may be URLs (`halve.checkpoint.url`); `halve.pipeline.store` says how files come to be there.

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

    ``hardware`` names a machine (`halve hardware`): schemes in formats that it lacks are refused, and left out of
    ``allow``.

    ``memory`` is the most bytes that the whole process takes: bands shrink, workers become fewer, and what texts leave
    behind goes to the disk, until the job fits.

    ``progress`` is called with a `Progress`, never from two threads at once. The bytes written do not depend on
    ``threads`` and ``memory``.

    A job that is interrupted leaves what it has finished in ``out`` (``out/.halve`` has its journal); with ``resume``
    the same call goes on behind that, starts where there is nothing, and returns at once where all is done. The result
    is that of an uninterrupted job, byte for byte.

    ``cluster`` is ``auto`` or the address of a Ray cluster that writes the weight files (extra ``ray``), from and to
    storage that all its machines see under the same paths.

    ``log`` is a file to which what is done, and how fast, is appended (`halve.pipeline.job_log`).

    Raises UnsupportedError, RecipeError or FormatError before anything is read where the job makes no sense, LimitError
    where it takes more than ``memory``, CheckpointError for a damaged source and for statistics of another model,
    FormatError for NaN or Inf in a weight, OutputError where ``out`` exists, the disk is full, or what is to be resumed
    is another job. Where nothing worth keeping was finished, nothing is left at ``out`` after an error.
    """
    began = perf_counter()
    out, overrides = place(out), tuple(overrides)
    limit = Memory(memory, writing=held_writing(out))
    allow = runnable(hardware, (scheme, *(name for _, name in overrides)), allow)
    with ExitStack() as stack:
        checkpoint = open_checkpoint(source) if isinstance(source, str | Place) else source
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
            "overrides": overrides,
            "on_nonfinite": on_nonfinite,
        }
        asked = choices | {"scheme": scheme, "algorithm": algorithm}
        if resume and (done := finished(checkpoint, out, asked)):
            return replace(done, seconds=perf_counter() - began)
        check_free(out, resume=resume)
        told = {"halve": halve.__version__, "source": str(checkpoint.path), "out": str(out), "scheme": scheme}
        stages = stack.enter_context(JobLog(log, **told, threads=threads, memory=memory, resume=resume))
        if stats is not None:
            stats = Path(stats)
            asked["statistics"] = StatisticsFile(stats).sha256
        asked |= {"budget": budget and asdict(budget), "allow": allow, "shard size": shard_bytes}
        workspace = claim(out, described(checkpoint, asked, calibrate), resume=resume)
        stack.enter_context(workspace)
        if isinstance(workspace, Workspace) and workspace.adopted:
            shutil.rmtree(workspace.path)
            return replace(cast("QuantizeResult", finished(checkpoint, out, {})), seconds=perf_counter() - began)
        if calibrate:
            here = _here(workspace, "--calibrate", "run `halve calibrate` first, and give --stats its file")
            row = schemes.get(scheme)
            check_scheme(row, layouts.get(layout or default_layout(row)), checkpoint, calibrated=True)
            hessians = algorithm in (None, AUTO, "gptq")
            stats = _gathered(
                here, checkpoint, calibrate, hessians=hessians, threads=threads, memory=memory, log=stages
            )
        statistics = None if stats is None else StatisticsFile(Path(stats))
        choices["statistics"] = statistics
        if statistics is not None:
            statistics.check(checkpoint)
        checkpoint = _seen(checkpoint, scheme, choices)
        if transforms is None and algorithm in (None, AUTO) and statistics is not None and not (conform or budget):
            choices["transforms"] = _usual(checkpoint, scheme, choices)
        if budget is not None:
            with stages.stage("budget"):
                names = (scheme, *allow)
                choices["overrides"] += _within(budget, checkpoint, names, choices, threads=threads, memory=limit)
        jobs = {
            name: make_plan(checkpoint, scheme, algorithm=name, **choices)
            for name in _candidates(algorithm, statistics)
        }
        work = _Work(checkpoint, statistics, shard_bytes, threads, limit, progress, workspace, stages, cluster)
        if len(jobs) == 1:
            return work.write(next(iter(jobs.values())), out, began)
        here = _here(workspace, "comparing candidates", "--algorithm gptq, which compares nothing")
        limit.require(2 * whole_model(checkpoint), "comparing candidates", "--algorithm gptq, which compares nothing")
        made = {name: work.write(job, here.path / name, began) for name, job in jobs.items()}
        with stages.stage("compare"):
            return _picked(checkpoint, made, here, began)


def _here(workspace: Workspace | StoreWorkspace, what: str, instead: str) -> Workspace:
    """``workspace``, which ``what`` needs on this machine. Raises UnsupportedError for a URL, with what to do."""
    if isinstance(workspace, StoreWorkspace):
        raise UnsupportedError(f"{what} needs an OUT on this machine, and {workspace.out} is a URL", hint=instead)
    return workspace


def _crew(
    memory: Memory, checkpoint: Checkpoint, job: Plan, statistics: StatisticsFile | None, threads: int | None
) -> Crew:
    """The workers for ``job`` within ``memory``. Raises LimitError where there is too little."""
    needs = algorithms.get(job.recipe.algorithm).needs
    return memory.crew(checkpoint, job, threads, needs, hessians=statistics is not None and statistics.hessians)


def _gathered(
    workspace: Workspace,
    checkpoint: Checkpoint,
    texts: Sequence[str],
    *,
    hessians: bool,
    threads: int | None,
    memory: int | None,
    log: JobLog,
) -> Path:
    """The statistics of ``texts``: those that the job had gathered when it was interrupted, or new ones."""
    path = workspace.path / "statistics.safetensors"
    with log.stage("calibrate"):
        if not path.exists():
            told = log.layers
            gather(checkpoint, path, texts=texts, hessians=hessians, threads=threads, memory=memory, progress=told)
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
    *,
    threads: int | None,
    memory: Memory,
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
    workers = threads or threads_available()
    groups = workers * largest_group(next(iter(jobs.values())))
    memory.require(whole_model(checkpoint) + groups, "measuring what a budget buys", "name schemes with --override")
    return overrides_within(checkpoint, jobs, statistics, budget, threads)


@dataclass(frozen=True, slots=True)
class _Work:
    """What the candidates of a job have in common."""

    checkpoint: Checkpoint
    statistics: StatisticsFile | None
    shard_bytes: int
    threads: int | None
    memory: Memory
    progress: ProgressCallback | None
    workspace: Workspace | StoreWorkspace
    log: JobLog
    cluster: str | None

    def write(self, job: Plan, out: Place, began: float) -> QuantizeResult:
        if self.cluster:
            check_cluster(job.layout)
            _here(self.workspace, "--cluster", "name a folder that all machines see")
        crew = _crew(self.memory, self.checkpoint, job, self.statistics, self.threads)
        with output_at(self.workspace, out, job.nbytes) as output:
            if job.recipe.on_nonfinite == "keep":
                with self.log.stage("look for NaN", sum(t.source.nbytes for t in job.quantized)):
                    job = job.keep(nonfinite(self.checkpoint, job, crew))
            with self.log.stage("transforms") if job.recipe.transforms else nullcontext():
                calibration = Calibration(self.statistics, fold(self.checkpoint, self.statistics, job, crew))
            run = Quantizing(self.checkpoint, job, calibration, output, crew=crew, progress=self.progress, log=self.log)
            if self.cluster and isinstance(output, LocalOutput):
                self._elsewhere(self.cluster, run, output)
            return run.run(output, self.shard_bytes, began)

    def _elsewhere(self, address: str, run: Quantizing, output: LocalOutput) -> None:
        """Have a cluster write the weight files."""
        file = self.statistics
        job = shard.Job(
            source=self.checkpoint.path.resolve(),
            plan=run.job,
            shard_bytes=self.shard_bytes,
            statistics=None if file is None else file.path.resolve(),
            folding=run.calibration.folding,
            folder=output.workspace.resolve(),
        )
        needs, known = algorithms.get(run.job.recipe.algorithm).needs, file is not None and file.hessians
        taken = worker(self.checkpoint, run.job, needs, hessians=known)
        with self.log.stage("cluster"), Cluster(address) as machines:
            machines.write(job, output, taken, run.meter)


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
