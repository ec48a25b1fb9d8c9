"""CONTRIBUTING.md does what it says: its rows are a format and a scheme, without another line of code."""

import re
import runpy
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml

import halve
from halve import hardware
from halve.codecs import dispatch, reference
from halve.formats import FORMATS
from halve.formats import table as formats_table
from halve.layouts.base import Layout
from halve.schemes import table as schemes_table
from halve.schemes.quantize import dequantize, quantize

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FORMAT, CAST, ORACLE, SCHEME = re.findall(r"```python\n(.*?)\n```", TEXT, re.DOTALL)


@pytest.fixture
def row(monkeypatch):
    row = eval(FORMAT, vars(formats_table))
    monkeypatch.setitem(FORMATS, row.name, row)
    return row


def test_a_row_is_a_format(row):
    name, oracle = eval(ORACLE, runpy.run_path(str(ROOT / "tests/golden/make_formats.py")))
    codes = np.arange(1 << row.bits, dtype=np.uint8)
    assert (name, oracle.bits) == (row.name, row.bits)
    for codec in (reference, dispatch):
        np.testing.assert_array_equal(codec.decode(row, codes), oracle.values(codes.astype(np.uint32)))
        np.testing.assert_array_equal(codec.encode(row, codec.decode(row, codes)), codes)
    assert eval(CAST, {"halve": halve})


def test_a_row_is_a_scheme(row):
    scheme = eval(SCHEME, vars(schemes_table))
    assert scheme.weight.element == row.name
    assert scheme.bpw == 5 + 8 / 32
    w = np.random.default_rng(0).standard_normal((8, 64), dtype=np.float32)
    error = dequantize(quantize(scheme.weight, w)) - w
    assert 10 * np.log10((w**2).sum() / (error**2).sum()) > scheme.floor_db


def test_every_method_that_a_layout_must_have_is_named():
    named = set(re.findall(r"`(\w+)`", TEXT))
    assert {*Layout.__abstractmethods__} <= named


def test_the_lines_of_a_machine_are_lines_of_one():
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    fields = dict(hardware.find("L4").numbers())
    for key, number in yaml.safe_load(block).items():
        assert key in fields
        assert ("source" if number["value"] is not None else "why") in number


def test_named_files_are_there():
    for name in re.findall(r"(?:`|pytest |\()((?:tests|src|docs)/[\w/.]+)", TEXT):
        assert (ROOT / name).exists(), name


def test_one_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version == halve.__version__
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()
