"""Units built, synthesised to gates, proven and measured: what needs PyRTL and Yosys (pip install 'halve[silicon]')."""

import json
from dataclasses import replace

import numpy as np
import pytest

from halve.errors import UnsupportedError
from halve.silicon import generate, liberty, samples
from halve.silicon.designs import quick_designs
from halve.silicon.measurement import measure_all
from halve.silicon.record import packaged
from halve.silicon.synthesis import synthesise, tools
from halve.silicon.unit import unit
from halve.silicon.verify import verify

pytest.importorskip("pyrtl", reason="halve[silicon] is not installed")
pytest.importorskip("pyosys", reason="halve[silicon] is not installed")


def test_the_quick_units_measure_again_as_packaged():
    """Area, cells, depth and energy to the last digit, and every vector right."""
    assert packaged().made.tools == tools()
    assert measure_all(quick_designs(), liberty.own()) == packaged().of(quick_designs())


@pytest.mark.parametrize(
    ("name", "fmt", "subnormals"),
    [
        ("mac", "fp4_e2m1", True),
        ("mac", "int4", True),
        ("dot16", "int3", True),
        ("dot16_nvfp4", "fp4_e2m1", True),
        ("multiplier", "fp8_e4m3fnuz", True),
        ("multiplier", "e3m2", False),
        ("adder", "fp8_e5m2", True),
        ("adder", "fp8_e4m3", False),
        ("exact_product", "fp8_e4m3fnuz", False),
    ],
)
def test_gates_compute_what_the_codecs_say(name, fmt, subnormals):
    design = unit(name, fmt, subnormals=subnormals)
    verdict = verify(design, synthesise(design, liberty.own()))
    assert verdict.mismatches == 0, verdict.first
    assert verdict.vectors >= 4096


def test_a_wrong_gate_is_found():
    """NAND for NOR and so on, one at a time. Most of what is not found is equivalent, as abc's `cec` says."""
    twins = {"NAND": "NOR", "NOR": "NAND", "AND": "OR", "OR": "AND", "AOI": "OAI", "OAI": "AOI", "XOR": "XNOR"}
    cells = liberty.own().cells
    design = unit("multiplier", "fp16")
    netlist = synthesise(design, liberty.own())
    found = []
    for index in np.random.default_rng(0).permutation(len(netlist.gates))[:60]:
        gate = netlist.gates[index]
        name = gate.cell.name.rstrip("0123456789")
        if twin := cells.get(twins.get(name, "") + gate.cell.name.removeprefix(name)):
            gates = [*netlist.gates[:index], replace(gate, cell=twin), *netlist.gates[index + 1 :]]
            found.append(verify(design, replace(netlist, gates=tuple(gates))).mismatches > 0)
    assert len(found) > 40
    assert sum(found) >= 0.95 * len(found)


@pytest.mark.parametrize(("name", "fmt"), [("mac", "fp16"), ("dot16_nvfp4", "fp4_e2m1"), ("dot16_mx", "int4")])
def test_equal_units_give_equal_verilog(name, fmt):
    """PyRTL numbers wires through the life of a process, and Yosys' results depend on names."""
    design = unit(name, fmt)
    first = generate.verilog(design)
    assert first.startswith(f"module {design.title}(")
    assert generate.verilog(design) == first


def of_cells(path, *names):
    """A library of some of halve's own cells."""
    head, *cells = liberty.own().path.read_text().removesuffix("}\n").split("  cell (")
    path.write_text(head + "".join(f"  cell ({cell}" for cell in cells if cell.split(")")[0] in names) + "}\n")
    return liberty.read(path)


def test_another_library(tmp_path):
    few = of_cells(tmp_path / "few.lib", "INV", "BUF", "NAND2", "NOR2")
    assert set(few.cells) == {"INV", "BUF", "NAND2", "NOR2"}
    design = unit("multiplier", "fp4_e2m1")
    small, large = synthesise(design, liberty.own()), synthesise(design, few)
    assert large.area > small.area
    assert verify(design, large).mismatches == 0


def test_a_library_that_abc_cannot_use(tmp_path):
    with pytest.raises(UnsupportedError, match="Current library is not available") as caught:
        synthesise(unit("multiplier", "int2"), of_cells(tmp_path / "two.lib", "INV", "NAND2"))
    assert "two.lib" in caught.value.hint


def test_the_command_measures_a_format_of_ones_own():
    from click.testing import CliRunner

    from halve.cli.main import cli

    result = CliRunner().invoke(cli, ["silicon", "measure", "e2m2", "--unit", "multiplier", "--json"])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert (row["format"], row["mismatches"]) == ("e2m2", 0)
    assert 20 < row["area_ratio"] < 110
    assert samples.load("heavy").name == "heavy"
