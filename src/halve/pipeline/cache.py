"""The folder that halve keeps downloads in: ``HALVE_CACHE``, else ``halve`` in the user's cache folder (XDG)."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from halve.errors import OutputError

# Cache Directory Tagging Specification 0.6: backup programs skip a folder with this file. It is also how `clear` knows
# that the folder is halve's, whatever HALVE_CACHE points at.
TAG = "CACHEDIR.TAG"
_TAG_TEXT = (
    "Signature: 8a477f597d28d172789f06886806bc55\n# Created by halve; `halve cache --clear` empties this folder.\n"
)


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A file or folder in the cache."""

    name: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class CacheListing:
    """What is in the cache."""

    path: Path
    entries: tuple[CacheEntry, ...]

    columns: ClassVar[tuple[str, ...]] = ("name", "files", "MB")

    @property
    def bytes(self) -> int:
        """Size of everything."""
        return sum(entry.bytes for entry in self.entries)

    def rows(self) -> Iterator[tuple[str | int, ...]]:
        """The cells of `columns`, a row for each entry."""
        for entry in self.entries:
            yield entry.name, entry.files, f"{entry.bytes / 1e6:.1f}"

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        entries = [{"name": entry.name, "files": entry.files, "bytes": entry.bytes} for entry in self.entries]
        return {"path": str(self.path), "bytes": self.bytes, "entries": entries}


def cache_path() -> Path:
    """Where the cache is or would be; nothing is created.

    The XDG Base Directory specification says that a relative XDG_CACHE_HOME is to be ignored.
    """
    if chosen := os.environ.get("HALVE_CACHE"):
        return Path(chosen).expanduser().absolute()
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "halve"


def cache_dir() -> Path:
    """The cache folder, created and tagged where it is missing or empty. Raises OutputError where that fails."""
    path = cache_path()
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not any(path.iterdir()):
            (path / TAG).write_text(_TAG_TEXT)
    except OSError as error:
        raise OutputError(
            f"the cache folder {path} cannot be used: {error.strerror}", hint="set HALVE_CACHE to a folder of yours"
        ) from None
    return path


def listing() -> CacheListing:
    """What is in the cache, by name; nothing where it does not exist. Raises OutputError where it cannot be read."""
    path = cache_path()
    try:
        found = sorted(path.iterdir()) if path.exists() else []
        return CacheListing(path, tuple(_entry(item) for item in found if item.name != TAG))
    except OSError as error:
        raise OutputError(
            f"the cache folder {path} cannot be read: {error.strerror}", hint="set HALVE_CACHE to a folder of yours"
        ) from None


def clear() -> CacheListing:
    """Delete everything in the cache but the folder itself; return what was in it.

    Raises OutputError, and deletes nothing, where the folder holds files but does not carry halve's tag.
    """
    before = listing()
    if not before.entries:
        return before
    if not _is_ours(before.path):
        raise OutputError(
            f"{before.path} was not made by halve (it has no {TAG} of ours), so nothing in it is deleted",
            hint="check HALVE_CACHE, or empty the folder yourself",
        )
    for entry in before.entries:
        item = before.path / entry.name
        try:
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            else:
                item.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{error.filename or item} cannot be deleted: {error.strerror}") from None
    return before


def _is_ours(path: Path) -> bool:
    try:
        return (path / TAG).read_text() == _TAG_TEXT
    except (OSError, UnicodeDecodeError):
        return False


def _entry(item: Path) -> CacheEntry:
    if not item.is_dir() or item.is_symlink():
        return CacheEntry(item.name, 1, item.lstat().st_size)
    files = [Path(folder, name) for folder, _, names in os.walk(item) for name in names]
    return CacheEntry(f"{item.name}/", len(files), sum(file.lstat().st_size for file in files))
