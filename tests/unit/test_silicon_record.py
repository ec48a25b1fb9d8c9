"""Quality of data, and the packaged measurements in tables: nothing is synthesised."""

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest

from halve.errors import CheckpointError, FormatError, UnsupportedError
from halve.silicon import comparison, liberty, pareto, samples
from halve.silicon.designs import packaged_designs, quick_designs
from halve.silicon.generate import verilog
from halve.silicon.model import expected
from halve.silicon.quality import sqnr
from halve.silicon.record import packaged, text
from halve.silicon.stimuli import stimuli
from halve.silicon.synthesis import synthesise
from halve.silicon.unit import unit

ROOT = Path(__file__).parents[2]


def test_missing_tools_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyrtl", None)
    with pytest.raises(UnsupportedError, match="PyRTL") as caught:
        verilog(unit("multiplier", "fp16"))
    assert "halve[silicon]" in caught.value.hint

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("halve.silicon.synthesis.version", missing)
    with pytest.raises(UnsupportedError, match="pyrtl") as caught:
        synthesise(unit("multiplier", "fp16"), liberty.own())
    assert "halve[silicon]" in caught.value.hint


def test_samples_of_a_file(tmp_path):
    array = np.random.default_rng(1).standard_normal((64, 128)).astype(np.float32) * 7
    np.save(tmp_path / "w.npy", array)
    found = samples.load(tmp_path / "w.npy")
    assert found.values.shape == (2, samples.COLUMNS)
    assert found.values.std() == pytest.approx(1)
    np.save(tmp_path / "few.npy", array[:1])
    with pytest.raises(FormatError, match="too few"):
        samples.load(tmp_path / "few.npy")
    np.save(tmp_path / "nan.npy", np.full(5000, np.nan))
    with pytest.raises(FormatError, match="NaN"):
        samples.load(tmp_path / "nan.npy")
    np.save(tmp_path / "words.npy", np.array(["a"] * 5000))
    with pytest.raises(CheckpointError):
        samples.load(tmp_path / "words.npy")
    with pytest.raises(CheckpointError):
        samples.load(tmp_path / "none.npy")


def test_quality_orders_formats_as_known():
    gaussian, heavy = samples.load("gaussian"), samples.load("heavy")
    found = {f"{u} {f}": sqnr(unit(u, f), gaussian) for u, f in (
        ("dot16", "int8"), ("dot16_mx", "fp8_e4m3"), ("dot16_mx", "int8"), ("dot16_mx", "fp4_e2m1"),
        ("dot16_nvfp4", "fp4_e2m1"), ("dot16", "bf16"),
    )}  # fmt: skip
    assert found["dot16_mx int8"] > found["dot16_mx fp8_e4m3"] > found["dot16_nvfp4 fp4_e2m1"]
    assert found["dot16_nvfp4 fp4_e2m1"] > found["dot16_mx fp4_e2m1"]
    assert found["dot16 bf16"] > found["dot16 int8"]
    # 6.02 dB a bit, less what the crest of a Gaussian of 4096 numbers leaves unused
    assert 38 < found["dot16 int8"] < 43
    assert sqnr(unit("dot16", "int8"), heavy) < found["dot16 int8"] - 6


def test_stimuli_stay_numbers():
    gaussian = samples.load("gaussian")
    for name, fmt in (("multiplier", "fp8_e4m3"), ("multiplier", "fp16"), ("mac", "fp8_e4m3"), ("dot16_nvfp4", "e2m1")):
        design = unit(name, fmt)
        inputs = stimuli(design, gaussian)
        assert list(inputs) == [port.name for port in design.ports]
        assert not expected(design, inputs).nan.any()


def test_the_package_holds_every_design_and_nothing_wrong():
    found = packaged()
    assert len(found.of(packaged_designs())) == len(found.measurements) == len(packaged_designs())
    assert len(found.of(quick_designs())) == len(quick_designs())
    assert found.mismatches == 0
    assert found.vectors >= 3_000_000
    assert all(m.design.title for m in found.measurements)
    assert found.made.library_sha256 == liberty.own().sha256
    assert text(found) == (ROOT / "src/halve/silicon/data/silicon.json").read_text()


def test_the_package_says_what_the_issue_of_bits_and_gates_is():
    found = packaged()

    def area(name, fmt):
        return found.find(name, fmt).area

    assert area("multiplier", "fp32") / area("multiplier", "fp4_e2m1") > 64
    assert area("mac", "fp32") / area("mac", "fp4_e2m1") < 16
    assert area("dot16_mx", "fp4_e2m1") < area("dot16_nvfp4", "fp4_e2m1")


def test_comparison_and_literature():
    found = packaged()
    table = comparison.compare(found.measurements, found.measurements)
    rows = {(row["unit"], row["format"], row["subnormals"]): row for row in table.to_json()}
    assert rows["multiplier", "fp32", True]["area_ratio"] == 1
    assert rows["multiplier", "fp4_e2m1", True]["rule_of_thumb"] == 64
    assert {"unit", "format", "area", "depth", "energy", "mismatches"} <= set(rows["dot16", "int8", True])
    assert "no wires" in table.note
    published = comparison.literature(found).to_json()
    assert all(row["here"] and row["source"] for row in published)
    assert [comparison.ratio(x) for x in (None, 1, 4, 4.13, 19.2)] == [None, "1", "1/4", "1/4.1", "1/19"]


def test_the_pareto_table():
    found = pareto.choices(packaged(), samples.load("gaussian"))
    best = [c for c in found.choices if c.best]
    assert best
    assert len(best) < len(found.choices)
    by_area = sorted(best, key=lambda c: (c.area, c.bits))
    assert by_area[0].sqnr < by_area[-1].sqnr
    for one in best:
        assert not any(c.sqnr > one.sqnr and c.area <= one.area and c.bits <= one.bits for c in found.choices)
    assert "no wires" in found.note
