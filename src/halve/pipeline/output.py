"""The folder that a job fills, in any order, with a journal of what is finished: on this machine, or behind a URL."""

import hashlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from halve.checkpoint import manifest
from halve.checkpoint.base import DTYPES, TensorInfo
from halve.checkpoint.place import Place, sha256
from halve.checkpoint.safetensors import ShardWriter
from halve.errors import OutputError
from halve.layouts.base import WeightFile, as_bytes
from halve.pipeline.journal import Finished, Journal
from halve.pipeline.plan import NOT_FINITE, Plan
from halve.pipeline.workspace import Workspace

CARD = "README.md"  # Hugging Face's model card; not in the manifest, for people write into it


_PART = ".part"  # of the names of files that are not finished


@dataclass(slots=True)
class _Stream:
    """One entry on its way: bands come in order."""

    file: WeightFile
    entry: TensorInfo
    offset: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    restored: str = ""  # the hash, where another job has written it

    @property
    def sha256(self) -> str:
        """The hash of what has been written."""
        return self.restored or self.digest.hexdigest()

    def restore(self, sha256: str) -> None:
        """Take the entry as written."""
        self.file.restore(self.entry.name, 0, self.entry.nbytes)
        self.restored = sha256


class Streams:
    """The entries of ``files`` on their way, band after band."""

    def __init__(self, files: Sequence[WeightFile]) -> None:
        self._streams = {entry.name: _Stream(file, entry) for file in files for entry in file.entries}

    def append(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the next bytes of some entries; one thread at a time for each entry."""
        for name, array in arrays.items():
            stream, data = self._streams[name], as_bytes(array)
            stream.digest.update(data)
            stream.file.write(name, stream.offset, data)
            stream.offset += len(data)

    def restore(self, one: Finished) -> None:
        """Take what another job has written."""
        for name, known in one.entries.items():
            self._streams[name].restore(known)

    def sha256(self, entry: str) -> str:
        """The hash of what has been written of ``entry``."""
        return self._streams[entry].sha256

    def finished(self, tensors: Mapping[str, Mapping[str, Any]], entries: Iterable[str]) -> Finished:
        """All of some ``tensors`` has been written, into ``entries``."""
        return Finished(tensors, {name: self.sha256(name) for name in entries})


class Output(ABC):
    """The files of one job in the folder ``path``; a context. What an interrupted job has finished there counts."""

    path: Place

    def __init__(self) -> None:
        self._files: list[WeightFile] = []
        self._streams = Streams(())

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Note what can be noted, and close all files."""

    @property
    @abstractmethod
    def finished(self) -> dict[str, Mapping[str, Any]]:
        """What earlier runs of the job have noted of the tensors that they finished."""

    @abstractmethod
    def note(self, tensors: Mapping[str, Mapping[str, Any]], entries: Iterable[str]) -> None:
        """All of some ``tensors`` has been written, into ``entries``: keep what is known of them, JSON-ready."""

    @abstractmethod
    def _deliver(self) -> None:
        """Complete the weight files that have all their bytes."""

    @abstractmethod
    def _put(self, name: str, content: bytes) -> None:
        """Write a small file, which is never there in part."""

    def open(self, job: Plan, shard_bytes: int) -> None:
        """Make the weight files of ``job``, or go on with those that are there."""
        self._files = job.layout.weight_files(self.path, job.shard_entries(shard_bytes), job.contents)
        self._streams = Streams(self._files)

    def append(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the next bytes of some entries; one thread at a time for each entry."""
        self._streams.append(arrays)

    @property
    def nbytes(self) -> int:
        """Bytes of the weight files."""
        return sum(file.nbytes for file in self._files)

    @property
    def weight_files(self) -> tuple[str, ...]:
        """Names of the weight files."""
        return tuple(file.path.name for file in self._files)

    def finish_weights(self, job: Plan) -> None:
        """Complete the weight files and give them their names."""
        for attention, scales in job.kv.items():
            for entry, scale in zip(job.layout.kv_entries(attention), scales, strict=True):
                self.append({entry.name: np.array(scale, DTYPES[entry.dtype])})
        self._deliver()

    def finish(self, job: Plan, source: dict[str, Any], card: str) -> None:
        """Write what stands beside the weights, the model card, and the manifest of all but the card."""
        files = job.layout.files(job.contents) | job.layout.index(self._files)
        for name, content in files.items():
            self._put(name, content)
        facts = manifest.Manifest(
            source=source,
            recipe=manifest.recipe_json(job.recipe),
            scheme=manifest.scheme_json(job.scheme),
            files={file.path.name: _facts(file) for file in self._files}
            | {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in sorted(files.items())},
            tensors={
                entry.name: {"file": file.path.name, "sha256": self._streams.sha256(entry.name)}
                for file in self._files
                if isinstance(file, ShardWriter)
                for entry in file.entries
            },
            not_finite=[tensor.source.name for tensor in job.tensors if tensor.why == NOT_FINITE],
        )
        self._put(CARD, card.encode())
        self._put(manifest.NAME, facts.serialised())


class LocalOutput(Output):
    """The files of one job in the folder ``path``, inside ``workspace`` or all that is around it.

    Raises OutputError where the folder may not be written to, or lies on a disk with fewer than ``nbytes`` free.
    """

    path: Path

    def __init__(self, workspace: Workspace, path: Path, nbytes: int) -> None:
        super().__init__()
        self.path = path
        self._workspace = workspace
        try:
            path.mkdir(exist_ok=True)
            found = [file for file in path.iterdir() if file.is_file()]
            free = shutil.disk_usage(path).free + sum(file.stat().st_blocks * 512 for file in found)
            for file in found:
                if file.suffix != _PART:  # of a job that had all but finished
                    file.rename(file.with_name(file.name + _PART))
        except OSError as error:
            raise OutputError(f"{path}: {error.strerror}", hint="choose a folder that you may write to") from None
        if free < nbytes:
            raise OutputError(
                f"{path}: {nbytes / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free",
                hint="free some space, choose another disk, or a scheme of fewer bits",
            )
        name = "journal" if path == workspace.out else f"{path.name}.journal"
        self._journal = Journal(workspace.path / name, self._sync)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Note what can be noted, and close all files."""
        if kind is not None:
            with suppress(OutputError):
                self._journal.commit()
        self._journal.close()
        for file in self._files:
            file.suspend()
        self._workspace.worth_keeping |= bool(self._journal.finished)

    @property
    def finished(self) -> dict[str, Mapping[str, Any]]:
        """What earlier runs of the job have noted of the tensors that they finished."""
        return {name: noted for one in self._journal.finished for name, noted in one.tensors.items()}

    def note(self, tensors: Mapping[str, Mapping[str, Any]], entries: Iterable[str]) -> None:
        """All of some ``tensors`` has been written, into ``entries``: keep what is known of them, JSON-ready."""
        self._journal.add(self._streams.finished(tensors, entries))

    def open(self, job: Plan, shard_bytes: int) -> None:
        """Make the weight files of ``job``, or go on with those that are there."""
        super().open(job, shard_bytes)
        for one in self._journal.finished:
            self._streams.restore(one)

    def take(self, part: Path, name: str, finished: Iterable[Finished]) -> None:
        """Make the file ``part``, which a worker elsewhere has brought to the disk, the beginning of the file ``name``.

        Before `open` only. Raises OutputError where the place cannot be written to.
        """
        try:
            part.rename(self.path / f"{name}{_PART}")
        except OSError as error:
            raise OutputError(f"{self.path / name}: {error.strerror}", hint="check the disk") from None
        for one in finished:
            self._journal.add(one)
        self._journal.commit()

    @property
    def workspace(self) -> Path:
        """The folder of the job's own files."""
        return self._workspace.path

    def _deliver(self) -> None:
        for file in self._files:
            file.finish()

    def _sync(self) -> None:
        """Bring what has been written to the disk."""
        for file in self._files:
            file.sync()

    def _put(self, name: str, content: bytes) -> None:
        part = self.path / f"{name}{_PART}"
        try:
            part.write_bytes(content)
            part.replace(self.path / name)
        except OSError as error:
            raise OutputError(
                f"{self.path / name}: cannot be written: {error.strerror}",
                hint="free some space, or choose another disk",
            ) from None


def _facts(file: WeightFile) -> dict[str, Any]:
    """Size and hash: safetensors files in parts, so that damage is found by tensor, others as a whole."""
    if isinstance(file, ShardWriter):
        return {"bytes": file.nbytes, "header_sha256": file.header_sha256}
    return {"bytes": file.nbytes, "sha256": sha256(file.path, file.nbytes)}
