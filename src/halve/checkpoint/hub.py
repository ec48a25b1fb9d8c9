"""Checkpoints from the Hugging Face hub: the local cache first, then a download into it.

The cache is read without any package, by its documented layout: ``models--org--name/refs/REVISION`` holds a commit, and
``snapshots/COMMIT`` its files. Downloads are made by ``huggingface_hub``, which resumes them, shows their progress on
stderr, and honours HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE and HF_HOME.

Specification: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

import errno
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from halve import document
from halve.checkpoint import hf
from halve.errors import CheckpointError

DEFAULT_ENDPOINT = "https://huggingface.co"
TORCH = ("pytorch_model*.bin", "model*.pt")  # of a repository without safetensors; not what trainers leave behind
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*")
# Sub-folders hold other forms of the model, and Mistral's "consolidated" files all weights a second time.
UNWANTED = ("*/*", "consolidated*.safetensors")

_REPOSITORY = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_REVISION = re.compile(r"\w[\w.+/-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REFERENCE_LIMIT = 4096  # bytes; a commit takes 40
_log = logging.getLogger("halve")


def parse(spec: str) -> tuple[str, str | None] | None:
    """``org/name[@revision]`` as repository and revision; None where ``spec`` cannot mean that."""
    repository, at, revision = spec.partition("@")
    if not _REPOSITORY.fullmatch(repository) or "--" in repository or ".." in spec:
        return None
    if at and not _REVISION.fullmatch(revision):
        return None
    return repository, revision or None


def resolve(repository: str, revision: str | None = None) -> Path:
    """The folder of ``repository`` (``org/name``) at ``revision``, a branch, tag or commit; ``main`` where it is None.

    A whole copy in the cache is taken as it is, without asking the hub for a newer one. Raises CheckpointError, with
    what to do, where nothing is cached and ``huggingface_hub`` is not installed, the hub cannot be reached, the
    repository is not there or not open to this user, and where it has neither safetensors nor what torch wrote.
    """
    found = cached(repository, revision)
    if found is None or not _whole(found):
        found = _download(repository, revision)
    return found


def cached(repository: str, revision: str | None = None) -> Path | None:
    """The folder in the local cache, maybe incomplete; None where there is none."""
    folder = cache_folder() / f"models--{repository.replace('/', '--')}"
    commit = revision or "main"
    try:
        if not _COMMIT.fullmatch(commit):
            commit = document.read(folder / "refs" / commit, _REFERENCE_LIMIT).decode().strip()
        snapshot = folder / "snapshots" / commit
        return snapshot if _COMMIT.fullmatch(commit) and snapshot.is_dir() else None
    except (OSError, UnicodeDecodeError, CheckpointError):
        return None


def cache_folder() -> Path:
    """Where ``huggingface_hub`` keeps repositories: HF_HUB_CACHE, or ``hub`` in HF_HOME."""
    env = os.environ
    home = env.get("HF_HOME") or f"{env.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    cache = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(cache)).expanduser()


def _whole(folder: Path) -> bool:
    try:
        hf.weight_files(folder)
        hf.inside(folder, hf.CONFIG)
    except CheckpointError:
        return False
    return True


def _download(repository: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415 - an optional package that takes 0.3 s
    except ImportError as error:
        raise CheckpointError(
            f"{repository}: no such folder, not in the cache {cache_folder()}, and the package huggingface_hub, which "
            "downloads, is missing",
            hint="pip install 'halve[hub]', or give the folder of a checkpoint",
        ) from error

    def download(patterns: tuple[str, ...]) -> Path:
        folder = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(patterns),
            ignore_patterns=list(UNWANTED),
            library_name="halve",
        )
        return Path(folder)

    _log.info("downloading %s%s", repository, f" at {revision}" if revision else "")
    try:
        folder = download(WANTED)
        if not any(folder.glob("*.safetensors")):
            folder = download(WANTED + TORCH)
    except Exception as error:  # the transport underneath has changed twice, and its errors with it
        raise _explained(error, repository, revision) from error
    try:
        hf.weight_files(folder)
    except CheckpointError as error:
        raise CheckpointError(
            f"{repository}: {error}",
            hint=f"look at {_endpoint()}/{repository}: it may hold pickles or GGUF files only (download a .gguf and "
            "give its path); where the hub cannot be reached, the copy in the cache is incomplete",
        ) from error
    return folder


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _explained(error: Exception, repository: str, revision: str | None) -> CheckpointError:
    """What went wrong in words of ours, by the errors that led to ``error``."""
    errors = list(_chain(error))
    names = {cls.__name__ for e in errors for cls in type(e).__mro__}
    statuses = {getattr(getattr(e, "response", None), "status_code", None) for e in errors}
    page = f"{_endpoint()}/{repository}"
    if "GatedRepoError" in names:
        why, hint = "access is gated", f"accept its terms at {page}, then set HF_TOKEN to a token of that account"
    elif "RevisionNotFoundError" in names:
        why, hint = f"no revision {revision!r}", f"see {page}/tree/main for its branches and tags"
    elif "OfflineModeIsEnabled" in names:
        why = f"not whole in the cache {cache_folder()}, and HF_HUB_OFFLINE forbids to download it"
        hint = "unset HF_HUB_OFFLINE, or give the folder of a checkpoint"
    elif statuses & {401, 403}:
        why = "the hub refuses: there is no such repository, or it is private, or the token may not read it"
        hint = "check the name (a local folder needs to exist), or set HF_TOKEN to a token that may read it"
    elif "RepositoryNotFoundError" in names or 404 in statuses:
        why, hint = "no such folder here and no such repository on the hub", f"check the name at {_endpoint()}"
    elif any(isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT) for e in errors):
        why, hint = (
            f"the disk of {cache_folder()} is full",
            "free some space, or set HF_HOME to a folder on another disk",
        )
    else:
        reason = (str(errors[-1]).splitlines() or [type(errors[-1]).__name__])[0]
        why = f"no such folder here, and it cannot be downloaded from {_endpoint()}: {reason}"
        hint = "check the network (HF_ENDPOINT names a mirror) and run it again: files that are whole are kept"
    return CheckpointError(f"{repository}: {why}", hint=hint)
