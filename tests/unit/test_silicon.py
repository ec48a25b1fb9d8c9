"""Rows of units, Liberty files, netlists and their simulation: nothing here needs PyRTL or Yosys."""

import contextlib
import runpy
from pathlib import Path

import numpy as np
import pytest

from halve.errors import CheckpointError, FormatError, HalveError, UnknownNameError, UnsupportedError
from halve.formats import FORMATS
from halve.silicon import liberty
from halve.silicon.element import element, elements
from halve.silicon.logic import parse
from halve.silicon.netlist import from_json, from_lanes, to_lanes
from halve.silicon.toggles import energy
from halve.silicon.unit import unit

ROOT = Path(__file__).parents[2]
LANES = 64
FULL_ADDER = {  # sum and carry of a, b, c out of the cells of halve.lib
    "ports": {
        "a": {"direction": "input", "bits": [2]},
        "b": {"direction": "input", "bits": [3]},
        "c": {"direction": "input", "bits": [4]},
        "o": {"direction": "output", "bits": [5, 6]},
    },
    "cells": {
        "s0": {"type": "XOR2", "connections": {"A": [2], "B": [3], "Y": [7]}},
        "s1": {"type": "XOR2", "connections": {"A": [7], "B": [4], "Y": [5]}},
        "c0": {"type": "AOI22", "connections": {"A": [2], "B": [3], "C": [7], "D": [4], "Y": [8]}},
        "c1": {"type": "INV", "connections": {"A": [8], "Y": [6]}},
    },
}


def codes(*numbers):
    return np.array(numbers, np.uint64)


# formats and units


def test_names_of_elements():
    assert element("e4m3") == FORMATS["fp8_e4m3"]
    assert element("e5m10") == FORMATS["fp16"]
    own = element("e3m4")
    assert (own.name, own.bits, own.bias, own.specials) == ("e3m4", 8, 3, "fn")
    assert element("e2m2").specials == "finite"
    assert element("e5m6").specials == "ieee"
    assert element("int5").min == -16
    assert set(elements()) <= set(FORMATS)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("e9m2", FormatError),
        ("e1m2", FormatError),
        ("e3m0", FormatError),
        ("int1", FormatError),
        ("int99", FormatError),
        ("nf4", UnsupportedError),
        ("uint8", UnsupportedError),
        ("e8m0", FormatError),
        ("ue4m3", UnsupportedError),
        ("fp9", UnknownNameError),
    ],
)
def test_impossible_elements_are_refused(name, error):
    with pytest.raises(error) as caught:
        element(name)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "fmt", "subnormals"),
    [
        ("fixed_mac", "fp16", True),
        ("exact_product", "int8", True),
        ("dot16_nvfp4", "fp16", True),
        ("multiplier", "int8", False),
    ],
)
def test_impossible_units_are_refused(name, fmt, subnormals):
    with pytest.raises(UnsupportedError) as caught:
        unit(name, fmt, subnormals=subnormals)
    assert caught.value.hint


def test_an_unknown_unit_lists_near_matches():
    with pytest.raises(UnknownNameError) as caught:
        unit("dot61", "fp16")
    assert "dot16" in caught.value.hint


def test_widths_follow_from_the_format():
    assert unit("fixed_mac", "fp8_e4m3").accumulator_bits == 48
    assert unit("fixed_mac", "fp4_e2m1").accumulator_bits == 32
    assert unit("dot16", "int16").accumulator_bits == 48
    assert unit("dot16", "fp4_e2m1").fixed_point
    assert not unit("dot16", "fp8_e4m3").fixed_point
    assert [p.name for p in unit("dot32_nvfp4", "fp4_e2m1").ports][-4:] == ["sa0", "sb0", "sa1", "sb1"]
    assert len(unit("dot16", "fp16").ports) == 33


# Liberty and logic


def test_the_own_library_is_what_its_script_writes():
    script = runpy.run_path(str(ROOT / "extras/silicon_library.py"))
    assert script["library"]() == liberty.own().path.read_text()


def test_the_own_library():
    own = liberty.own()
    assert len(own.cells) == 21
    assert own.unusable == ()
    nand, inverter = own.smallest(liberty.NAND2), own.smallest(liberty.INVERTER)
    assert (nand.name, nand.area, inverter.name) == ("NAND2", 1.0, "INV")


def test_what_a_library_may_hold(tmp_path):
    path = tmp_path / "real.lib"
    path.write_text(
        """/* a comment { */ library ("real") {
        lu_table_template(t) { variable_1 : x; index_1 ("1, 2"); }
        default_fanout_load : 1
        cell (NAND) { area : 2; pin (A) { direction : input; capacitance : 1.5; }
          pin (B) { direction : input; capacitance : 1.5 }
          pin (Y) { direction : output; function : "(A*B)'"; timing () { values ("1, 2", \\
            "3, 4"); } } }
        cell (INVX) { area : 1; pin (A) { direction : input; capacitance : 1; }
          pin (Y) { direction : output; function : "!A"; } }
        cell (HA) { area : 5; pin (A) { direction : input; } pin (B) { direction : input; }
          pin (S) { direction : output; function : "A^B"; } pin (C) { direction : output; function : "A B"; } }
        cell (DFF) { area : 9; ff (Q, QN) { next_state : "D"; } pin (D) { direction : input; }
          pin (Q) { direction : output; function : "Q"; } }
        cell (CLKBUF) { area : 3; pin (A) { direction : input; } pin (Y) { direction : output; function : "A"; } }
        cell (ODD) { area : 3; dont_use : true; pin (A) { direction : input; }
          pin (Y) { direction : output; function : "A"; } }
        }"""
    )
    library = liberty.read(path)
    assert set(library.cells) == {"NAND", "INVX", "HA", "CLKBUF", "ODD"}
    assert library.unusable == ("CLKBUF", "HA", "ODD")
    assert library.cells["NAND"].capacitance == {"A": 1.5, "B": 1.5}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "module top(); endmodule",
        "library (x) { cell (A) { area : big; pin (A) { direction : input; } ",
        'library (x) { cell (A) { area : 1; pin (A) { direction : input; } pin (Y) { function : "A+"; } } }',
        'library (x) { cell (A) { area : -1; pin (A) { direction : input; } pin (Y) { function : "A"; } } }',
        'library (x) { cell (A) { pin (A) { direction : input; } pin (Y) { function : "A"; } } }',
        "library (x) ;",
        "library (x) { cell { } }",
        "library (x) { pin",
        "library (x) { cell () { area : 1; } }",
        "library (x) { cell (A) { pin (); } }",
    ],
)
def test_what_is_not_liberty_is_refused(tmp_path, content):
    path = tmp_path / "bad.lib"
    path.write_text(content)
    with pytest.raises(CheckpointError) as caught:
        liberty.read(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint


def test_a_cell_that_keeps_something_is_left_out(tmp_path):
    path = tmp_path / "keep.lib"
    kept = 'cell (K) { area : 1; pin (A) { direction : input; } pin (Q) { direction : output; function : "IQ"; } }'
    path.write_text(liberty.own().path.read_text().removesuffix("}\n") + kept + "}\n")
    assert set(liberty.read(path).cells) == set(liberty.own().cells)


def test_a_damaged_library_is_an_error_of_halve(tmp_path):
    text, rng = liberty.own().path.read_text()[:4000], np.random.default_rng(0)
    path = tmp_path / "damaged.lib"
    for _ in range(300):
        at, end = sorted(rng.integers(0, len(text), 2))
        piece = "".join(rng.choice(list('(){};:," A!'), 3)) if rng.random() < 0.5 else ""
        path.write_text(text[:at] + piece + (text[end:] if rng.random() < 0.5 else text[at + 1 :]))
        with contextlib.suppress(HalveError):
            liberty.read(path)


def test_a_library_without_gates_is_refused(tmp_path):
    path = tmp_path / "empty.lib"
    path.write_text("library (x) { }")
    with pytest.raises(UnsupportedError, match="2-input NAND"):
        liberty.read(path)
    with pytest.raises(CheckpointError, match="No such file"):
        liberty.read(tmp_path / "none.lib")


@pytest.mark.parametrize(
    ("function", "table"),
    [
        ("!(A B)", "1110"),
        ("A' + B'", "1110"),
        ("A^B", "0110"),
        ("!A ^ B", "1001"),
        ("A | !B & A", "0011"),
        ("(A)' B", "0100"),
        ("1", "1111"),
        ("A B + !A !B", "1001"),
    ],
)
def test_logic_functions(function, table):
    found = parse(function)({"A": codes(0b1100), "B": codes(0b1010)})
    assert [int(found[0]) >> i & 1 for i in range(4)] == [int(bit) for bit in table]


@pytest.mark.parametrize("function", ["", "A +", "(A", "A)", "A # B", "!" * 200 + "A", "'", "2"])
def test_what_is_no_logic_function_is_refused(function):
    with pytest.raises(CheckpointError):
        parse(function)


# simulation


def test_lanes_round_trip():
    numbers = np.random.default_rng(0).integers(0, 1 << 63, 200, dtype=np.uint64)
    assert (from_lanes(to_lanes(numbers, LANES), 200) == numbers).all()


def test_a_full_adder_adds():
    adder = from_json(FULL_ADDER, liberty.own())
    a, b, c = (codes(*bits) for bits in zip(*np.ndindex(2, 2, 2), strict=True))
    assert (adder.run({"a": a, "b": b, "c": c})["o"] == a + b + c).all()
    assert adder.depth == 3
    assert adder.area == pytest.approx((7 + 7 + 5 + 2) / 3)


def test_switched_capacitance_counts_glitches():
    adder = from_json(FULL_ADDER, liberty.own())
    still = energy(adder, {name: codes(1, 1, 1) for name in "abc"})
    assert (still.settled, still.glitching) == (0, 0)
    # a and b swap: the first XOR sees both change at once, and nothing moves but the inputs.
    swapped = energy(adder, {"a": codes(0, 1), "b": codes(1, 0), "c": codes(0, 0)})
    assert swapped.settled == swapped.glitching == pytest.approx(2 * (3 + 2))
    # c arrives a gate earlier than a ^ b: the sum moves up and down again.
    glitch = energy(adder, {"a": codes(0, 1), "b": codes(0, 0), "c": codes(0, 1)})
    assert glitch.glitching > glitch.settled > 0


def test_unknown_cells_and_loops_are_refused():
    unknown = {"ports": {}, "cells": {"x": {"type": "NAND9", "connections": {}}}}
    with pytest.raises(UnsupportedError, match="NAND9"):
        from_json(unknown, liberty.own())
    ring = {"ports": {}, "cells": {"x": {"type": "INV", "connections": {"A": [2], "Y": [2]}}}}
    with pytest.raises(UnsupportedError, match="loop"):
        from_json(ring, liberty.own())
