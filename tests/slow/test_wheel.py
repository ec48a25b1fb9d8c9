"""The wheel: built from the source archive, repaired for any Linux of its time, installed where nothing can compile."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NATIVE = {"HALVE_REQUIRE_NATIVE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def run(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, text=True, **options)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    for tool in ("build", "auditwheel"):
        pytest.importorskip(tool, reason="nox -s wheel installs build and auditwheel")
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", ROOT, "--outdir", folder / "built", env=os.environ | NATIVE)
    (built,) = (folder / "built").glob("*.whl")
    run(sys.executable, "-m", "auditwheel", "repair", built, "-w", folder / "repaired")
    (repaired,) = (folder / "repaired").glob("*.whl")
    return repaired


def test_it_is_for_many_linuxes(wheel):
    assert "manylinux" in wheel.name


def test_it_holds_what_the_program_reads(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("halve/_native") for name in names)
    package = ROOT / "src" / "halve"
    data = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".pyc", ".so")}
    assert {f"halve/{path.relative_to(package)}" for path in data} <= set(names)


def test_it_installs_without_a_compiler(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv" / "bin"
    bare = {**NATIVE, "PATH": str(binaries), "HOME": str(tmp_path), "CC": "/bin/false", "CXX": "/bin/false"}
    bare |= {name: os.environ[name] for name in os.environ if name.startswith(("PIP_", "HALVE_CACHE", "OPENBLAS_"))}
    run(binaries / "pip", "install", "-q", "--only-binary", ":all:", f"{wheel}[demo]", env=bare)
    doctor = json.loads(run(binaries / "halve", "doctor", "--json", env=bare, capture_output=True).stdout)
    assert doctor["native"]
    run(binaries / "halve", "demo", "--quick", env=bare, cwd=tmp_path, capture_output=True)
    assert len(list((tmp_path / "halve-demo").glob("*/model.safetensors"))) >= 8
