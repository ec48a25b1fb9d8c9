import json
import os
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import halve
from halve.cli.main import cli
from halve.evaluate import machine


def run(*args):
    return CliRunner().invoke(cli, ["doctor", *args])


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HALVE_CACHE", str(tmp_path / "not" / "there"))


def test_first_line_says_whether_native_kernels_are_in_use():
    first = run().stdout.splitlines()[0]
    assert first == machine.kernels_sentence()
    assert ("native kernels in use: " in first) == (machine.dispatch.isa() != "python")


def test_without_native_kernels_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(machine.dispatch, "isa", lambda: "python")
    monkeypatch.setattr(machine, "native", None)
    monkeypatch.setattr(machine.shutil, "which", lambda _: None)
    monkeypatch.setattr(machine.sysconfig, "get_paths", lambda: {"include": "/nowhere"})
    sentence = machine.kernels_sentence()
    assert sentence.startswith("NO native kernels")
    assert "missing: g++, Python.h; apt install g++ python3-dev; then reinstall halve" in sentence
    found = json.loads(run("--json").stdout)
    assert found["native"] is False
    assert found["packed_isa"] is None
    assert found["isa_available"] == []
    assert found["missing"] == ["g++", "Python.h"]


def test_json_tells_the_machine(tmp_path):
    found = json.loads(run("--json").stdout)
    assert found["halve"] == halve.__version__
    assert found["numpy"] == np.__version__
    assert sys.executable in found["python"]
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert 0 < found["memory_available_bytes"] <= found["memory_bytes"]
    assert found["memory_bytes"] == pytest.approx(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.05)
    assert found["read_bytes_per_second"] > 1e8
    assert found["cache"] == str(tmp_path / "not" / "there")
    assert not (tmp_path / "not").exists()
    assert found["cache_free_bytes"] > 0
    assert found["native"] == (found["isa"] != "python")
    if found["native"]:
        assert found["isa"] in found["isa_available"]
        assert found["isa_available"][-1] == "scalar"
        assert found["packed_isa"].startswith(found["isa"]) or found["packed_isa"] in found["isa_available"]
    assert found["huge_pages"] in (None, "always", "madvise", "never")


def test_text_is_the_same_report():
    text = run().stdout
    for row in ("native kernels", "packed models", "huge pages", "processor", "read bandwidth", "cache", "numpy"):
        assert f"\n{row} " in text


def test_extras_come_from_the_package_metadata(monkeypatch):
    class Metadata:
        def get_all(self, key):
            return {
                "Provides-Extra": ["hub", "oracle"],
                "Requires-Dist": [
                    "numpy>=1.26",
                    'pytest>=8; extra == "hub"',
                    "torch-that-nobody-has==2.13.0; extra == 'oracle'",
                ],
            }[key]

    monkeypatch.setattr(machine.metadata, "metadata", lambda _: Metadata())
    extras = json.loads(run("--json").stdout)["extras"]
    assert extras == {"hub": {"pytest": pytest.__version__}, "oracle": {"torch-that-nobody-has": None}}
    text = run().stdout
    assert f"pytest {pytest.__version__}" in text
    assert "not installed: torch-that-nobody-has" in text


def test_a_tree_that_is_not_installed_has_no_extras(monkeypatch):
    def missing(name):
        raise machine.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(machine.metadata, "metadata", missing)
    assert json.loads(run("--json").stdout)["extras"] == {}


def test_read_rate_counts_bytes():
    assert machine.read_rate(1 << 24, threads=1, seconds=0.01) > 1e7
    assert machine.read_rate(1 << 20, threads=3, seconds=0) > 1e6
