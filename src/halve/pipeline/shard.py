"""One weight file of a job, written by a process that knows nothing of the others: the work of a machine in a cluster.

The file comes to be in a folder of its own, under the job's; whoever gave the work out gives it its place. So two
processes that were given the same work, because one was thought dead, do not meet.
"""

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from halve.checkpoint.place import Place
from halve.checkpoint.source import open_checkpoint
from halve.errors import OutputError
from halve.pipeline.calibration import Calibration
from halve.pipeline.experts import seen
from halve.pipeline.job_log import JobLog
from halve.pipeline.journal import Finished
from halve.pipeline.output import Streams
from halve.pipeline.plan import Plan, TensorPlan
from halve.pipeline.quantizing import Quantizing
from halve.pipeline.statistics import StatisticsFile
from halve.pipeline.workers import Crew
from halve.pipeline.workspace import SHARD
from halve.transforms.folding import Folding


@dataclass(frozen=True, slots=True)
class Job:
    """What all machines are told: the source and the statistics by paths that mean the same on each of them."""

    source: Place
    plan: Plan
    shard_bytes: int
    statistics: Path | None
    folding: Folding
    folder: Path  # for files in the making

    @property
    def shards(self) -> list[list[TensorPlan]]:
        """The tensors of each weight file."""
        return self.plan.shards(self.shard_bytes)


@dataclass(frozen=True, slots=True)
class Written:
    """A file that lies whole on the disk but for its name, and what is in it."""

    part: Path
    finished: list[Finished]


class _Noted:
    """A sink that remembers."""

    def __init__(self, streams: Streams) -> None:
        self.finished: list[Finished] = []
        self._streams = streams

    def append(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._streams.append(arrays)

    def note(self, tensors: Mapping[str, Mapping[str, Any]], entries: Iterable[str]) -> None:
        self.finished.append(self._streams.finished(tensors, entries))


def write(job: Job, index: int, crew: Crew) -> Written:
    """Write weight file ``index`` of ``job``, all but the entries that belong to no tensor.

    Raises as `quantize` does, and OutputError where this machine does not see the job's folder.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{SHARD}{index}-", dir=job.folder))
    except OSError as error:
        raise OutputError(
            f"{job.folder}: {error.strerror} on one of the cluster's machines",
            hint="source and OUT must be on storage that every machine sees under the same path",
        ) from None
    entries = job.plan.shard_entries(job.shard_bytes)[index]
    (file,) = job.plan.layout.weight_files(folder, [entries], job.plan.contents)
    try:
        with closing(open_checkpoint(job.source)) as checkpoint:
            sink = _Noted(Streams((file,)))
            statistics = None if job.statistics is None else StatisticsFile(job.statistics)
            calibration = Calibration(statistics, job.folding)
            view = seen(checkpoint, job.plan.recipe)
            run = Quantizing(view, job.plan, calibration, sink, crew=crew, progress=None, log=JobLog(None))
            run.write(job.shards[index])
        file.sync()
    except BaseException:
        file.discard()
        shutil.rmtree(folder, ignore_errors=True)
        raise
    file.suspend()
    (part,) = folder.iterdir()
    return Written(part, sink.finished)
