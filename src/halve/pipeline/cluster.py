"""The main job on a Ray cluster: weight files are tasks, written by the machines that have processors to spare.

Every machine reads the tensors of its file from storage that all of them see and writes them there, under a name of its
own; the driver gives the file its place, notes its tensors in the journal, and writes index, config and manifest last.
Ray gives the work of a machine that dies to another. An interrupted job goes on with ``--resume``, on a cluster or
without; the bytes are those of a single machine.

Why whole files and not ranges of common ones: NFS promises nothing to two machines that write parts of one page.
"""

import shutil
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any, Self

from halve.errors import HalveError, LimitError, UnsupportedError
from halve.layouts.base import Layout, shard_name
from halve.pipeline import shard
from halve.pipeline.memory import MIB
from halve.pipeline.output import LocalOutput
from halve.pipeline.progress import Meter
from halve.pipeline.shard import Job, Written
from halve.pipeline.workers import Crew

AUTO = "auto"  # the cluster that this machine belongs to
ANSWER_SECONDS = 10
RETRIES = 8  # of a file whose machine died
_PROCESS = 300 * MIB  # of a Ray worker that has imported halve


class Cluster:
    """The Ray cluster at ``address``: ``auto``, or host:port; a context.

    Raises UnsupportedError where Ray is not installed or no cluster answers.
    """

    def __init__(self, address: str) -> None:
        self._ray = _ray()
        self._ours = not self._ray.is_initialized()
        if self._ours:
            _check_answers(address)
            on_term = signal.getsignal(signal.SIGTERM)
            try:
                self._ray.init(address, log_to_driver=False, logging_level="error", configure_logging=False)
            except (ConnectionError, ValueError) as error:
                raise _silent(address, str(error).splitlines()[0]) from None
            if current_thread() is main_thread():
                signal.signal(signal.SIGTERM, on_term)  # Ray has put its own there, which exits without a word

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            self._ray.shutdown()

    def write(self, job: Job, output: LocalOutput, memory: int, meter: Meter) -> None:
        """Have the machines write the files of ``job`` of which ``output`` has nothing yet, and take them.

        ``memory`` is what a worker takes. Raises what the work raised.
        """
        known, shards = output.finished, job.shards
        todo = [i for i, tensors in enumerate(shards) if not any(t.source.name in known for t in tensors)]
        if not todo:
            return
        meter.start(sum(t.source.nbytes for tensors in shards for t in tensors if t.source.name in known))
        threads = self._threads(len(todo))
        needed, most = _PROCESS + threads * memory, int(max(self._each("memory"), default=0))
        if needed > most:
            raise LimitError(
                f"a file takes {needed // MIB} MiB, and no machine of the cluster has more than {most // MIB} MiB",
                hint="start Ray with more --memory on one of them, or choose a simpler --algorithm",
            )
        task = self._ray.remote(shard.write).options(
            num_cpus=threads, memory=needed, max_retries=RETRIES, name="halve quantize"
        )
        shared = self._ray.put(job)
        running = {task.remote(shared, index, Crew(threads)): index for index in todo}
        with self._cancelled(running):
            while running:
                (ready,), _ = self._ray.wait(list(running), num_returns=1)
                index = running.pop(ready)
                written: Written = self._result(ready)
                output.take(written.part, shard_name(index, len(shards)), written.finished)
                shutil.rmtree(written.part.parent, ignore_errors=True)
                meter.add(sum(t.source.nbytes for t in shards[index]), shards[index][-1].source.name)

    def _threads(self, tasks: int) -> int:
        """Threads of a task, so that all machines have something to do and none is asked for more than it has."""
        processors = self._each("CPU")
        return max(int(min(sum(processors) // tasks, min(processors, default=1))), 1)

    def _each(self, resource: str) -> list[float]:
        """How much of ``resource`` each machine that is alive has, where it has any."""
        found = (node["Resources"].get(resource, 0) for node in self._ray.nodes() if node["Alive"])
        return [amount for amount in found if amount]

    def _result(self, ready: Any) -> Written:
        try:
            found: Written = self._ray.get(ready)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, HalveError):
                raise error.cause from error
            raise HalveError(
                f"a machine of the cluster failed: {error.cause!r}", hint="HALVE_DEBUG=1 shows where"
            ) from error
        except self._ray.exceptions.RayError as error:
            raise HalveError(
                f"the cluster lost a file {RETRIES + 1} times: {str(error).splitlines()[0]}",
                hint="look at `ray status`; --resume goes on with what is finished",
            ) from None
        return found

    @contextmanager
    def _cancelled(self, running: Iterable[Any]) -> Iterator[None]:
        """Where the job fails, stop what is under way.

        On a connection of our own its end does that. Not by force: a task that is cancelled so while it ends aborts
        this process (a failed check in Ray 2.60's task_manager.cc).
        """
        try:
            yield
        except BaseException:
            if not self._ours:
                for task in running:
                    self._ray.cancel(task, force=False)
            raise


def check(layout: Layout) -> None:
    """Raise UnsupportedError where the files of ``layout`` cannot be written one by one."""
    if not layout.shards_alone:
        raise UnsupportedError(
            f"layout {layout.name} has files that only one process can write",
            hint="use a layout of safetensors files, such as compressed-tensors, or leave out --cluster",
        )


def _check_answers(address: str) -> None:
    """Raise UnsupportedError where nobody listens at ``address``: Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if address == AUTO:
        return
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except (ValueError, OverflowError):
        raise UnsupportedError(f"{address} is no address of a Ray cluster", hint="write auto, or host:port") from None
    except OSError as error:
        raise _silent(address, error.strerror or str(error)) from None


def _silent(address: str, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"no Ray cluster answers at {address}: {why}",
        hint="start one with `ray start --head`, or give the address that it printed",
    )


def _ray() -> Any:
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError:
        raise UnsupportedError("a cluster needs Ray, which is not installed", hint="pip install 'halve[ray]'") from None
    return ray
