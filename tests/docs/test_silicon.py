"""docs/reference/silicon.md says what the package holds."""

import re
from pathlib import Path

import pytest

from halve.silicon import comparison, pareto, samples
from halve.silicon.measurement import CAVEAT
from halve.silicon.record import packaged

TEXT = (Path(__file__).parents[2] / "docs/reference/silicon.md").read_text()


def table(first):
    """Rows of the table whose head begins with ``first``, as dicts."""
    lines = TEXT[TEXT.index(f"| {first} |") :].split("\n\n")[0].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_the_ratios():
    found = comparison.compare(packaged().measurements, packaged().measurements).compared
    measured = {(c.measurement.unit, c.measurement.format): c for c in found if c.measurement.subnormals}
    rows = table("format | rule of thumb")
    assert len(rows) == 12
    for row in rows:
        fmt, rule = row.pop("format"), row.pop("rule of thumb")
        assert rule == (comparison.ratio(measured["multiplier", fmt].rule) or "-")
        for unit, cell in row.items():
            c = measured.get((unit, fmt))
            assert cell == ("-" if c is None else comparison.ratio(c.area_ratio)), (unit, fmt)


def test_the_published_figures():
    names = ("unit", "format", "relative_to", "published", "here")
    found = [tuple(row[name] for name in names) for row in comparison.literature(packaged()).to_json()]
    assert [tuple(row.values())[:5] for row in table("unit | format | relative to")] == found


def test_the_formats_to_build():
    best = [c for c in pareto.choices(packaged(), samples.load("gaussian")).choices if c.best]
    assert [(c.unit, c.format, f"{c.bits:g}", f"{c.sqnr:.2f}", f"{c.area:.1f}") for c in best] == [
        tuple(row.values()) for row in table("tile | format | bits")
    ]
    heavy = {(c.unit, c.format) for c in pareto.choices(packaged(), samples.load("heavy")).choices if c.best}
    assert ("dot16_nvfp4", "fp4_e2m1") in heavy
    assert not any("e4m3" in fmt for _, fmt in heavy)


@pytest.mark.parametrize("figure", [r"(\d+) measured designs", r"measures all (\d+) again"])
def test_the_number_of_designs(figure):
    (count,) = re.findall(figure, TEXT)
    assert int(count) == len(packaged().measurements)


def test_the_caveat():
    assert CAVEAT in " ".join(TEXT.split())
