"""The vendor's toolkit, in a virtual environment of its own.

rknn-toolkit2 is proprietary and asks for old versions of numpy, onnx and protobuf: it is neither shipped with halve nor
imported by it. What is installed lies in `requirements.txt` beside this file.
"""

import subprocess
import sys
import venv
from importlib.resources import files
from pathlib import Path

from halve.errors import OutputError, UnsupportedError

TOOLKIT = "rknn_toolkit2==2.5.0"
LICENCE = "https://github.com/airockchip/rknn-toolkit2/blob/master/LICENSE"
_PYTHONS = ((3, 8), (3, 12))  # the toolkit has wheels for these, both included


def environment(folder: Path, *, accepted: bool) -> Path:
    """The interpreter of the toolkit's environment in ``folder``, which is made where it does not stand.

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
    if stamp.is_file() and stamp.read_text() == requirements and python.is_file():
        return python
    if not _PYTHONS[0] <= sys.version_info[:2] <= _PYTHONS[1] or sys.platform != "linux":
        raise UnsupportedError(
            f"{TOOLKIT} has no build for Python {sys.version_info[0]}.{sys.version_info[1]} on {sys.platform}",
            hint="run halve with Python 3.11 or 3.12 on Linux",
        )
    try:
        venv.create(folder, with_pip=True, clear=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise OutputError(
            f"{folder}: the toolkit's environment cannot be made: {error}",
            hint="check the disk and permissions, and that this Python has venv and ensurepip (Debian: python3-venv)",
        ) from None
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
    stamp.write_text(requirements)
    return python
