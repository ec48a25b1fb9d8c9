"""``OUT/.halve``: what a running job keeps to itself, and an interrupted one leaves to the next.

| file | holds |
|---|---|
| ``lock`` | nothing; locked while the job runs, however it ends |
| ``job.json`` | source and options, which must be the same to go on |
| ``journal`` | what is finished, see `halve.pipeline.journal` |
| ``statistics.safetensors`` | what `--calibrate` has gathered |
| ``shard-*`` | folders in which machines of a cluster write a file each |
| other folders | candidates, each with a journal beside it; ``adopted`` names the one that is being moved to OUT |
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from halve import document
from halve.checkpoint import manifest
from halve.checkpoint.place import Place
from halve.errors import RESUMABLE, CheckpointError, FormatError, OutputError, RecipeError, UnsupportedError

NAME = ".halve"
JOB = "job.json"
SHARD = "shard-"
_ADOPTED = "adopted"
HOPELESS = (FormatError, RecipeError, UnsupportedError)  # the same job would end the same way


class Workspace:
    """The claim on the folder ``out`` for the job that ``job`` describes, JSON-ready; a context.

    Where the job fails, what it has written stays for ``resume``, or goes where nothing worth keeping was finished.

    Raises OutputError where the folder is in use, not empty, not writable, or holds another job than this.
    """

    def __init__(self, out: Path, job: Mapping[str, Any], *, resume: bool) -> None:
        self.out = out
        self.path = out / NAME
        self.worth_keeping = False
        check_free(out, resume=resume)
        self._created = not out.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise OutputError(f"{out}: {error.strerror}", hint="choose a folder that you may write to") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._agree(job)
            for left in self.path.glob(f"{SHARD}*"):  # by machines that died: they would take room
                shutil.rmtree(left, ignore_errors=True)
        except OSError as error:
            os.close(self._lock)
            if error.errno != errno.EWOULDBLOCK:
                raise OutputError(f"{out}: {error.strerror}", hint="choose a folder that you may write to") from None
            raise OutputError(
                f"{out}: another job is writing there", hint="wait for it, or choose another folder"
            ) from None
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> Self:
        return self

    def adopt(self, folder: str) -> None:
        """Make the files in ``folder``, one of the workspace's own, those of the job; the manifest comes last."""
        try:
            _written_whole(self.path / _ADOPTED, folder)
        except OSError as error:
            raise OutputError(f"{self.out}: {error.strerror}", hint="free some space") from None
        self._move(folder)

    @property
    def adopted(self) -> bool:
        """Whether a folder was being adopted when the job was interrupted; then it has been now."""
        if not (self.path / _ADOPTED).exists():
            return False
        self._move(document.read(self.path / _ADOPTED, document.CONFIG_LIMIT).decode())
        return True

    def _move(self, folder: str) -> None:
        try:
            for file in sorted((self.path / folder).iterdir(), key=lambda file: file.name == manifest.NAME):
                file.rename(self.out / file.name)
        except OSError as error:
            raise OutputError(f"{self.out}: {error.strerror}", hint="choose a folder that you may write to") from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            shutil.rmtree(self.path, ignore_errors=True)
        elif self.worth_keeping and not isinstance(error, HOPELESS):
            error.add_note(RESUMABLE)
        else:
            self._clear()
        os.close(self._lock)

    def _agree(self, job: Mapping[str, Any]) -> None:
        """Note what the job is, or raise OutputError where another is noted."""
        noted = self.path / JOB
        if noted.exists():
            self.worth_keeping = True
            agree(self.out, job, document.read(noted, document.CONFIG_LIMIT))
        else:
            _written_whole(noted, json.dumps(job, indent=1))

    def _clear(self) -> None:
        """Remove what the job has written: everything, for the folder was empty."""
        for path in self.out.iterdir():
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self._created:
            with suppress(OSError):
                self.out.rmdir()


def _written_whole(path: Path, content: str) -> None:
    """Write a file that is never there in part. Raises OSError where that cannot be."""
    part = path.with_suffix(".part")
    with part.open("w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def agree(out: Place, job: Mapping[str, Any], noted: bytes) -> None:
    """Raise OutputError where ``noted``, the `JOB` in ``out``, is damaged or another than ``job``."""
    try:
        known = document.json_object(noted, JOB, hint="")
    except CheckpointError:
        raise OutputError(f"{out / NAME / JOB} is damaged", hint=f"remove {out} and begin again") from None
    asked = json.loads(json.dumps(job))
    if other := sorted(key for key in known.keys() | asked.keys() if known.get(key) != asked.get(key)):
        raise OutputError(
            f"{out} holds an interrupted job with another {' and another '.join(other)}",
            hint="give it what it was begun with, choose another folder, or remove this one",
        )


def check_free(out: Place, *, resume: bool = False) -> None:
    """Raise OutputError where ``out`` is no place for a new folder, or, to ``resume``, for what a job has left."""
    if out.suffix.lower() in (".gguf", ".onnx", ".safetensors"):
        raise OutputError(f"{out} is to be a folder", hint=f"name a folder, such as {out.with_suffix('')}")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    interrupted = (out / NAME).is_dir()
    if not (resume and interrupted):
        raise OutputError(
            f"{out} exists and is not empty",
            hint="an interrupted job is there: --resume goes on with it"
            if interrupted
            else "choose another folder, or remove it first",
        )
