"""A Ray cluster of several machines that are processes of this one, and die as machines do."""

import signal
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import psutil
from ray.cluster_utils import Cluster

MEMORY = 2 << 30  # bytes that a machine says it has
OBJECTS = 100 << 20


class Machines:
    """``count`` machines of one processor each; a context. The first holds the cluster together."""

    def __init__(self, count: int) -> None:
        self._cluster = Cluster(initialize_head=True, head_node_args=_SIZE)
        self._others = [self._cluster.add_node(**_SIZE) for _ in range(count - 1)]
        self._cluster.wait_for_nodes()

    @property
    def address(self) -> str:
        """Where it answers."""
        return str(self._cluster.address)

    def kill(self, number: int) -> int:
        """Kill one of the others, its raylet and all that the raylet has started; how many of these were workers.

        A raylet that dies alone lets its worker finish.
        """
        node = self._others.pop(number)
        raylet = psutil.Process(_pid(node))
        family = [raylet, *raylet.children(recursive=True)]
        workers = 0
        for process in family:
            with suppress(psutil.NoSuchProcess):
                workers += process.name().startswith("ray::") or "ray::" in " ".join(process.cmdline())
                process.send_signal(signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)
        return workers

    def replace(self) -> None:
        """A new machine."""
        self._others.append(self._cluster.add_node(**_SIZE))
        self._cluster.wait_for_nodes()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cluster.shutdown()


_SIZE = {"num_cpus": 1, "memory": MEMORY, "object_store_memory": OBJECTS, "include_dashboard": False}


def _pid(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)
