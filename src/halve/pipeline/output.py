"""The folder that a job fills: claimed first, written in any order, and empty again after an error."""

import hashlib
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from halve.checkpoint import manifest
from halve.checkpoint.base import DTYPES
from halve.checkpoint.safetensors import ShardWriter
from halve.errors import OutputError
from halve.layouts.base import WeightFile, as_bytes
from halve.pipeline.plan import NOT_FINITE, Plan

LOCK = ".halve-job"  # in a folder that a job is writing into
CARD = "README.md"  # Hugging Face's model card; not in the manifest, for people write into it


@dataclass(slots=True)
class _Stream:
    """One entry on its way: bands come in order."""

    file: WeightFile
    offset: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)


class Output:
    """A folder of its own for one job; a context that removes everything where the job fails.

    Raises OutputError where the folder is in use, may not be written to, or lies on a disk with fewer than ``nbytes``
    free.
    """

    def __init__(self, path: Path, nbytes: int) -> None:
        self.path = path
        check_free(path)
        self._created = not path.exists()
        self._files: list[WeightFile] = []
        self._streams: dict[str, _Stream] = {}
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / LOCK).touch(exist_ok=False)
            free = shutil.disk_usage(path).free
        except FileExistsError:
            raise OutputError(
                f"{path}: another job is writing there",
                hint=f"choose another folder; where no job runs, remove {path / LOCK}",
            ) from None
        except OSError as error:
            raise OutputError(f"{path}: {error.strerror}", hint="choose a folder that you may write to") from None
        if free < nbytes:
            self._abandon()
            raise OutputError(
                f"{path}: {nbytes / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free",
                hint="free some space, choose another disk, or a scheme of fewer bits",
            )

    def __enter__(self) -> Self:
        """Nothing more to do: the folder is claimed."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give up the folder where the job failed."""
        if kind is not None:
            for file in self._files:
                file.discard()
            self._abandon()

    @property
    def nbytes(self) -> int:
        """Bytes of the weight files, as on disk."""
        return sum(file.path.stat().st_size for file in self._files)

    def open(self, job: Plan, shard_bytes: int) -> None:
        """Make the weight files of ``job``."""
        self._files = job.layout.weight_files(self.path, job.shard_entries(shard_bytes), job.contents)
        for file in self._files:
            self._streams |= {entry.name: _Stream(file) for entry in file.entries}

    def append(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the next bytes of some entries; one thread at a time for each entry."""
        for name, array in arrays.items():
            stream, data = self._streams[name], as_bytes(array)
            stream.digest.update(data)
            stream.file.write(name, stream.offset, data)
            stream.offset += len(data)

    def finish_weights(self, job: Plan) -> None:
        """Complete the weight files and give them their names."""
        for attention, scales in job.kv.items():
            for entry, scale in zip(job.layout.kv_entries(attention), scales, strict=True):
                self.append({entry.name: np.array(scale, DTYPES[entry.dtype])})
        for file in self._files:
            file.finish()

    @property
    def weight_files(self) -> tuple[str, ...]:
        """Names of the weight files."""
        return tuple(file.path.name for file in self._files)

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
                entry.name: {"file": file.path.name, "sha256": self._streams[entry.name].digest.hexdigest()}
                for file in self._files
                if isinstance(file, ShardWriter)
                for entry in file.entries
            },
            not_finite=[tensor.source.name for tensor in job.tensors if tensor.why == NOT_FINITE],
        )
        self._put(CARD, card.encode())
        self._put(manifest.NAME, facts.serialised())
        (self.path / LOCK).unlink()

    def _put(self, name: str, content: bytes) -> None:
        part = self.path / f"{name}.part"
        try:
            part.write_bytes(content)
            part.replace(self.path / name)
        except OSError as error:
            raise OutputError(
                f"{self.path / name}: cannot be written: {error.strerror}",
                hint="free some space, or choose another disk",
            ) from None

    def _abandon(self) -> None:
        """Remove what the job has written: everything, for it held the lock of an empty folder."""
        for path in self.path.iterdir():
            with suppress(OSError):
                path.unlink()
        if self._created:
            with suppress(OSError):
                self.path.rmdir()


def check_free(path: Path) -> None:
    """Raise OutputError where ``path`` is no place for a new folder."""
    if path.suffix.lower() in (".gguf", ".onnx", ".safetensors"):
        raise OutputError(f"{path} is to be a folder", hint=f"name a folder, such as {path.with_suffix('')}")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise OutputError(f"{path} exists and is not empty", hint="choose another folder, or remove it first")


def _facts(file: WeightFile) -> dict[str, Any]:
    """Size and hash: safetensors files in parts, so that damage is found by tensor, others as a whole."""
    size = file.path.stat().st_size
    if isinstance(file, ShardWriter):
        return {"bytes": size, "header_sha256": file.header_sha256}
    with file.path.open("rb") as opened:
        return {"bytes": size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}
