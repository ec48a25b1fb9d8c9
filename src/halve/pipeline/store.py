"""A job whose OUT is behind a URL: what it keeps there, and how its files come to be.

A store knows no appending, no renaming and no locks, so what is finished is counted in files. A weight file is sent
when its last tensor has been written, and nobody sees it before; then ``OUT/.halve/finished/NAME`` says what is in it,
in the words of the journal. Index, config and manifest come last.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from halve.checkpoint.place import Place, content
from halve.checkpoint.url import Url
from halve.document import TEXT_LIMIT
from halve.errors import RESUMABLE, OutputError
from halve.layouts.base import WeightFile
from halve.pipeline import journal
from halve.pipeline.journal import Finished
from halve.pipeline.output import LocalOutput, Output
from halve.pipeline.plan import Plan
from halve.pipeline.workspace import HOPELESS, JOB, NAME, Workspace, agree, check_free

_FINISHED = "finished"


class StoreWorkspace:
    """The claim on the folder ``out`` for the job that ``job`` describes, JSON-ready; a context.

    Where the job fails, what it has sent stays for ``resume``, or goes where nothing worth keeping was finished.

    Raises OutputError where the folder is not empty, not writable, or holds another job than this.
    """

    def __init__(self, out: Url, job: Mapping[str, Any], *, resume: bool) -> None:
        self.out = out
        self.path = out / NAME
        self.worth_keeping = False
        self.sent: list[Url] = []
        check_free(out, resume=resume)
        noted = self.path / JOB
        if noted.exists():
            self.worth_keeping = True
            agree(out, job, content(noted, TEXT_LIMIT))
        else:
            noted.put(json.dumps(job, indent=1).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.path.remove()
        elif self.worth_keeping and not isinstance(error, HOPELESS):
            error.add_note(RESUMABLE)
        else:
            with suppress(OutputError):  # the first error is the one to tell
                for file in self.sent:
                    file.remove()
                self.path.remove()

    def note(self, file: str, finished: Iterable[Finished]) -> None:
        """The weight file called ``file`` is whole, and holds what is ``finished``."""
        (self.path / _FINISHED / file).put(journal.serialised(finished))

    def noted(self) -> dict[str, list[Finished]]:
        """What is in the weight files that are whole, by their names."""
        folder = self.path / _FINISHED
        files = folder.iterdir() if folder.exists() else ()
        return {file.name: journal.parse(content(file, TEXT_LIMIT))[0] for file in files}


class StoreOutput(Output):
    """The files of one job, inside ``workspace``."""

    def __init__(self, workspace: StoreWorkspace) -> None:
        super().__init__()
        self.path = workspace.out
        self._workspace = workspace
        self._known: list[Finished] = []
        self._whole: set[str] = set()
        self._left: dict[str, set[str]] = {}  # file -> entries to come
        self._written: dict[str, list[Finished]] = {}  # file -> what is in it
        self._by_entry: dict[str, WeightFile] = {}
        self._lock = Lock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Forget what is not sent."""
        for file in self._files:
            file.suspend()
        self._workspace.worth_keeping |= bool(self._whole)

    @property
    def finished(self) -> dict[str, Mapping[str, Any]]:
        """What earlier runs of the job have noted of tensors all of whose files they have sent."""
        return {name: noted for one in self._known for name, noted in one.tensors.items()}

    def open(self, job: Plan, shard_bytes: int) -> None:
        """Begin the weight files of ``job``; those that are there as they were noted count as sent."""
        super().open(job, shard_bytes)
        self._by_entry = {entry.name: file for file in self._files for entry in file.entries}
        self._left = {file.path.name: {entry.name for entry in file.entries} for file in self._files}
        self._written = {file.path.name: [] for file in self._files}
        noted = self._workspace.noted()
        for file in self._files:
            if file.path.name in noted and file.path.is_file() and file.path.stat().st_size == file.nbytes:
                self._whole.add(file.path.name)
                self._workspace.sent.append(self._workspace.out / file.path.name)
        for name in self._whole:
            for one in noted[name]:
                # A group cut apart by a file's border is noted with both files, and done again where one is missing.
                files = {self._by_entry[entry].path.name for entry in one.entries}
                if files <= self._whole and name == min(files):
                    self._streams.restore(one)
                    self._known.append(one)

    def note(self, tensors: Mapping[str, Mapping[str, Any]], entries: Iterable[str]) -> None:
        """All of some ``tensors`` has been written, into ``entries``; files that are whole by this are sent."""
        one = self._streams.finished(tensors, entries)
        files = {file.path.name: file for file in (self._by_entry[entry] for entry in one.entries)}
        ready = []
        with self._lock:
            for name, file in files.items():
                self._written[name].append(one)
                self._left[name] -= one.entries.keys()
                if not self._left[name] and name not in self._whole:
                    ready.append(file)
        for file in ready:
            self._send(file)

    def _deliver(self) -> None:
        for file in self._files:
            if file.path.name not in self._whole:
                self._send(file)

    def _send(self, file: WeightFile) -> None:
        name = file.path.name
        file.finish()
        self._workspace.sent.append(self._workspace.out / name)
        self._workspace.note(name, self._written[name])
        self._whole.add(name)

    def _put(self, name: str, content: bytes) -> None:
        file = self._workspace.out / name
        file.put(content)
        self._workspace.sent.append(file)


def claim(out: Place, job: Mapping[str, Any], *, resume: bool) -> Workspace | StoreWorkspace:
    """The workspace for ``job`` at ``out``. Raises OutputError as `Workspace` and `StoreWorkspace` do."""
    if isinstance(out, Url):
        return StoreWorkspace(out, job, resume=resume)
    return Workspace(out, job, resume=resume)


def output(workspace: Workspace | StoreWorkspace, path: Place, nbytes: int) -> Output:
    """Where the files of a job of ``nbytes`` bytes go, in ``path``. Raises OutputError where there is no room."""
    if isinstance(workspace, StoreWorkspace):
        return StoreOutput(workspace)
    return LocalOutput(workspace, Path(str(path)), nbytes)
