"""Storage in memory behind ``flaky://``: it counts what is read and written, and fails when it is told to."""

from collections import deque

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class Flaky(MemoryFileSystem):
    """``failures`` are raised by the next requests, one each; ``truncate`` of the next ranges come short."""

    protocol = "flaky"
    store = {}  # noqa: RUF012 - MemoryFileSystem's own are shared as well
    pseudo_dirs = [""]  # noqa: RUF012
    requests = []  # noqa: RUF012 - of ranges: (path, begin, end)
    failures = deque()  # noqa: RUF012
    write_failures = deque()  # noqa: RUF012 - of files that are written; None lets one pass
    truncate = 0

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("flaky://", "memory://"))

    def cat_file(self, path, start=None, end=None, **kwargs):
        Flaky.requests.append((path, start, end))
        self._fail()
        content = super().cat_file(path, start, end, **kwargs)
        if Flaky.truncate:
            Flaky.truncate -= 1
            return content[:-1]
        return content

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        self._fail(Flaky.write_failures)
        super().pipe_file(path, value, mode, **kwargs)

    def _open(self, path, mode="rb", **kwargs):
        if mode == "wb":
            self._fail(Flaky.write_failures)
        return super()._open(path, mode, **kwargs)

    def info(self, path, **kwargs):
        self._fail()
        return super().info(path, **kwargs)

    def _fail(self, failures=None):
        failures = Flaky.failures if failures is None else failures
        if failures and (error := failures.popleft()) is not None:
            raise error

    @classmethod
    def reset(cls):
        """Empty, counting from nothing, and sound."""
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.requests.clear()
        cls.failures.clear()
        cls.write_failures.clear()
        cls.truncate = 0


def upload(folder, url):
    """Put the files of ``folder`` under ``url``."""
    filesystem, root = fsspec.core.url_to_fs(url)
    for path in folder.iterdir():
        if path.is_file():
            filesystem.pipe_file(f"{root}/{path.name}", path.read_bytes())
    return url


def download(url):
    """Name -> content of all files directly under ``url``."""
    filesystem, root = fsspec.core.url_to_fs(url)
    return {path.rpartition("/")[2]: filesystem.cat_file(path) for path in filesystem.find(root, maxdepth=1)}


fsspec.register_implementation("flaky", Flaky, clobber=True)
