"""How long a job takes on several machines like this one: from what this one is measured to do with its tensors."""

import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import Any

from numpy.typing import NDArray

from halve.checkpoint.place import Place, local, place
from halve.checkpoint.source import open_checkpoint
from halve.errors import OutputError
from halve.pipeline.calibration import Calibration
from halve.pipeline.experts import seen
from halve.pipeline.job_log import JobLog
from halve.pipeline.plan import SHARD_BYTES, Plan, TensorPlan
from halve.pipeline.quantizing import Quantizing
from halve.pipeline.statistics import StatisticsFile
from halve.pipeline.workers import Crew

SAMPLE_BYTES = 512 << 20
WRITTEN_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Expected:
    """Seconds on ``machines`` like this one, with storage that serves them all at the rates of this one."""

    machines: int
    files: int  # weight files, which are the tasks
    source_bytes: int
    written_bytes: int
    work_rate: float  # bytes of the source read and quantized a second
    write_rate: float  # bytes written and synced a second

    @property
    def seconds(self) -> float:
        """Reading, quantizing and writing overlap, so that the slower counts; the last round of files may be short."""
        alone = max(self.source_bytes / self.work_rate, self.written_bytes / self.write_rate)
        return alone * ceil(self.files / self.machines) / self.files

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "machines": self.machines,
            "files": self.files,
            "source_bytes": self.source_bytes,
            "written_bytes": self.written_bytes,
            "work_bytes_per_second": round(self.work_rate),
            "write_bytes_per_second": round(self.write_rate),
            "seconds": round(self.seconds, 1),
        }

    def __str__(self) -> str:
        rates = f"{self.work_rate / 1e9:.2f} GB/s read and quantized, {self.write_rate / 1e9:.2f} GB/s written each"
        files = f"{self.files} file{'s' * (self.files > 1)}"
        machines = f"{self.machines} machines" if self.machines > 1 else "1 machine"
        return f"{machines} like this one: {_told(self.seconds)} ({rates}, {files})"


class _Nowhere:
    """A sink that keeps nothing."""

    def append(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Drop them."""

    def note(self, tensors: Mapping[str, Mapping[str, Any]], entries: Iterable[str]) -> None:
        """Forget them."""


def expected(
    source: str | Place,
    job: Plan,
    out: str | Place,
    machines: int,
    *,
    stats: str | Path | None = None,
    shard_bytes: int = SHARD_BYTES,
    threads: int | None = None,
) -> Expected:
    """Measure this machine on a sample of ``job``, and on a file beside ``out``; leaves nothing there.

    Raises OutputError where nothing can be written beside ``out``.
    """
    sample, job = _sample(job), replace(job, recipe=replace(job.recipe, transforms=()))
    calibration, crew = Calibration(None if stats is None else StatisticsFile(Path(stats))), Crew.of(threads)
    with closing(open_checkpoint(source)) as opened:
        checkpoint = seen(opened, job.recipe)
        for tensor in sample:
            checkpoint.release(tensor.source.name)  # from the disk, not from memory
        work = Quantizing(checkpoint, job, calibration, _Nowhere(), crew=crew, progress=None, log=JobLog(None))
        began = perf_counter()
        work.write(sample)
        rate = sum(tensor.source.nbytes for tensor in sample) / (perf_counter() - began)
    return Expected(
        machines=machines,
        files=len(job.shards(shard_bytes)),
        source_bytes=sum(tensor.source.nbytes for tensor in job.tensors),
        written_bytes=job.nbytes,
        work_rate=rate,
        write_rate=_write_rate(local(place(out), "OUT of a cluster", "name a folder that all machines see")),
    )


def _sample(job: Plan) -> list[TensorPlan]:
    """Tensors from all over the model, of about `SAMPLE_BYTES`, or all."""
    step = max(sum(tensor.source.nbytes for tensor in job.tensors) // SAMPLE_BYTES, 1)
    found, size = [], 0
    for tensor in sorted(job.tensors[:: min(step, len(job.tensors))], key=lambda tensor: not tensor.scheme):
        if size < SAMPLE_BYTES:
            found.append(tensor)
            size += tensor.source.nbytes
    return found


def _write_rate(out: Path) -> float:
    folder = next(parent for parent in out.resolve().parents if parent.is_dir())
    content = os.urandom(1 << 20)
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            began = perf_counter()
            for _ in range(WRITTEN_BYTES // len(content)):
                file.write(content)
            os.fsync(file.fileno())
            return WRITTEN_BYTES / (perf_counter() - began)
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror}", hint="choose a folder that you may write to") from None


def _told(seconds: float) -> str:
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
