"""Installing where compiling is impossible: pure Python, and it says so; never silently where native is required."""

import json
import os
import subprocess
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NO_COMPILER = {"CC": "/bin/false", "CXX": "/bin/false", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def environment(**extra):
    clean = {name: value for name, value in os.environ.items() if name != "HALVE_REQUIRE_NATIVE"}
    return clean | NO_COMPILER | extra


@pytest.fixture(scope="module")
def pure(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pure") / "venv"
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin" / "pip", "install", "-q", ROOT], env=environment(), check=True)
    return folder / "bin"


def test_it_installs_works_and_says_so(pure):
    done = subprocess.run([pure / "halve", "doctor"], env=environment(), capture_output=True, text=True, check=True)
    assert "NO native kernels" in done.stdout.splitlines()[0]
    cast = subprocess.run(
        [pure / "halve", "cast", "0.1", "--to", "fp8_e4m3", "--json"],
        env=environment(),
        capture_output=True,
        check=True,
    )
    assert json.loads(cast.stdout)["numbers"][0]["value"] == 0.1015625


def test_importing_fails_where_native_is_required(pure):
    done = subprocess.run(
        [pure / "python", "-c", "import halve"],
        env=environment(HALVE_REQUIRE_NATIVE="1"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "HALVE_REQUIRE_NATIVE is set" in done.stderr


def test_building_fails_where_native_is_required(tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    pip = tmp_path / "venv" / "bin" / "pip"
    done = subprocess.run([pip, "install", "-q", ROOT], env=environment(HALVE_REQUIRE_NATIVE="1"), capture_output=True)
    assert done.returncode != 0
