"""The vendor's toolkit, in a virtual environment of its own.

rknn-toolkit2 is proprietary and asks for old versions of numpy, onnx and protobuf: it is neither shipped with halve nor
imported by it. What is installed lies in `requirements.txt` beside this file.
"""

import fcntl
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from pathlib import Path

from halve.errors import OutputError, UnsupportedError

TOOLKIT = "rknn_toolkit2==2.5.0"
LICENCE = "https://github.com/airockchip/rknn-toolkit2/blob/master/LICENSE"
_PYTHONS = ((3, 8), (3, 12))  # the toolkit has wheels for these, both included


def environment(folder: Path, *, accepted: bool) -> Path:
    """The interpreter of the toolkit's environment in ``folder``, which is made where it does not stand.

    Where another process is making it, this waits for that one: the file ``folder`` + ``.lock`` is locked meanwhile.

    Raises UnsupportedError where the licence has not been ``accepted`` or this Python is none that the toolkit has
    wheels for, OutputError where the environment cannot be made.
    """
    python = folder / "bin" / "python"
    requirements = files(__package__).joinpath("requirements.txt").read_text()
    stamp = folder / "installed.txt"
    if not accepted:
        raise UnsupportedError(
            f"{TOOLKIT} is Rockchip's, under a licence of its own: {LICENCE}",
            hint="read it, and add --accept-rknn-license; everything else of halve edge works without",
        )
    if _stands(stamp, requirements, python):
        return python
    if not _PYTHONS[0] <= sys.version_info[:2] <= _PYTHONS[1] or sys.platform != "linux":
        raise UnsupportedError(
            f"{TOOLKIT} has no build for Python {sys.version_info[0]}.{sys.version_info[1]} on {sys.platform}",
            hint="run halve with Python 3.11 or 3.12 on Linux",
        )
    with _locked(folder):
        if not _stands(stamp, requirements, python):
            _make(folder, python, requirements)
            stamp.write_text(requirements)
    return python


def _stands(stamp: Path, requirements: str, python: Path) -> bool:
    return stamp.is_file() and stamp.read_text() == requirements and python.is_file()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Beside the folder, which is emptied; the lock goes with the process, however that ends."""
    with ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder.with_name(f"{folder.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise _failed(folder, str(error)) from None
        yield


def _make(folder: Path, python: Path, requirements: str) -> None:
    try:
        venv.create(folder, with_pip=True, clear=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise _failed(folder, str(error)) from None
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    given = [line for line in requirements.splitlines() if line and not line.startswith("#")]
    for arguments in (given, ["--no-deps", TOOLKIT]):
        done = subprocess.run([*pip, *arguments], capture_output=True, text=True, check=False)  # noqa: S603 - pinned
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise OutputError(
                f"{folder}: the toolkit's environment cannot be made: {said[-1] if said else 'pip failed'}",
                hint="check the network and the disk (it takes 2 GB), and try again",
            )


def _failed(folder: Path, why: str) -> OutputError:
    return OutputError(
        f"{folder}: the toolkit's environment cannot be made: {why}",
        hint="check the disk and permissions, and that this Python has venv and ensurepip (Debian: python3-venv)",
    )
