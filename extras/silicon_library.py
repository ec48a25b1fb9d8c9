"""Writes the Liberty file that comes with halve, src/halve/silicon/data/halve.lib, from textbook rules.

    python extras/silicon_library.py > src/halve/silicon/data/halve.lib

Area: a static CMOS cell is a row of transistor pairs and one column between it and the next cell, so its width is
pairs + 1; NAND2, three columns, is the unit. Capacitance and delay: logical effort (Sutherland, Sproull & Harris, 1999)
for gates with the drive of the smallest inverter, PMOS twice as wide as NMOS.
"""

import sys
from dataclasses import dataclass

TAU, INVERTER = 0.02, 0.01  # ns for an inverter to drive one like it, without its own parasitics; pF of its input
COLUMNS = 3  # of NAND2
LOADS = (0.0, 100.0)  # in inverter inputs; delay is linear in between
HEADER = """\
/* The small standard-cell library of halve: relative numbers by textbook rules, not a process.
   Written by extras/silicon_library.py, which says how. Areas are in NAND2 equivalents.
   Compared with Debian's qflow-tech-osu018 (Oklahoma State University, TSMC 0.18 um) in the reference on silicon. */
library (halve) {
  delay_model : table_lookup;
  time_unit : "1ns";
  voltage_unit : "1V";
  current_unit : "1uA";
  pulling_resistance_unit : "1kohm";
  leakage_power_unit : "1nW";
  capacitive_load_unit (1, pf);
  nom_process : 1;
  nom_voltage : 1;
  nom_temperature : 25;
  lu_table_template (linear) {
    variable_1 : total_output_net_capacitance;
    variable_2 : input_net_transition;
    index_1 ("LOADS");
    index_2 ("0.01, 1");
  }
"""


@dataclass(frozen=True)
class Gate:
    """A cell: its function, transistor pairs, efforts of its inputs, parasitic delay."""

    name: str
    function: str
    pairs: int
    efforts: dict[str, float]  # in thirds
    parasitic: float  # in thirds
    sense: str = "negative_unate"


def same(inputs: str, effort: float) -> dict[str, float]:
    """Inputs of one effort."""
    return dict.fromkeys(inputs, effort)


POSITIVE, BOTH = "positive_unate", "non_unate"
GATES = (
    Gate("INV", "!A", 1, same("A", 3), 3),
    Gate("BUF", "A", 2, same("A", 3), 9, POSITIVE),
    Gate("NAND2", "!(A B)", 2, same("AB", 4), 6),
    Gate("NAND3", "!(A B C)", 3, same("ABC", 5), 9),
    Gate("NAND4", "!(A B C D)", 4, same("ABCD", 6), 12),
    Gate("NOR2", "!(A+B)", 2, same("AB", 5), 6),
    Gate("NOR3", "!(A+B+C)", 3, same("ABC", 7), 9),
    Gate("NOR4", "!(A+B+C+D)", 4, same("ABCD", 9), 12),
    Gate("AND2", "A B", 3, same("AB", 4), 12, POSITIVE),
    Gate("AND3", "A B C", 4, same("ABC", 5), 15, POSITIVE),
    Gate("OR2", "A+B", 3, same("AB", 5), 12, POSITIVE),
    Gate("OR3", "A+B+C", 4, same("ABC", 7), 15, POSITIVE),
    Gate("AOI21", "!((A B)+C)", 3, same("AB", 6) | same("C", 5), 7),
    Gate("OAI21", "!((A+B) C)", 3, same("AB", 6) | same("C", 4), 8),
    Gate("AOI22", "!((A B)+(C D))", 4, same("ABCD", 6), 12),
    Gate("OAI22", "!((A+B) (C+D))", 4, same("ABCD", 6), 12),
    Gate("AOI211", "!((A B)+C+D)", 4, same("AB", 8) | same("CD", 7), 10),
    Gate("OAI211", "!((A+B) C D)", 4, same("AB", 7) | same("CD", 5), 11),
    Gate("XOR2", "A^B", 6, same("AB", 9), 12, BOTH),
    Gate("XNOR2", "!(A^B)", 6, same("AB", 9), 12, BOTH),
    Gate("MUXI2", "!((S B)+(!S A))", 5, same("AB", 6) | same("S", 9), 12, BOTH),
)


def table(name: str, times: tuple[float, float]) -> str:
    """A table of two loads by two transition times, of which the second does not matter."""
    rows = ", ".join(f'"{time:.4f}, {time:.4f}"' for time in times)
    return f"        {name} (linear) {{ values ({rows}); }}\n"


def cell(gate: Gate) -> str:
    """The Liberty text of ``gate``."""
    text = f"  cell ({gate.name}) {{\n    area : {(gate.pairs + 1) / COLUMNS:.4f};\n"
    for pin, effort in gate.efforts.items():
        capacitance = f"capacitance : {INVERTER * effort / 3:.6f};"
        text += f"    pin ({pin}) {{ direction : input; {capacitance} }}\n"
    text += f'    pin (Y) {{\n      direction : output;\n      function : "{gate.function}";\n'
    low, high = (TAU * (gate.parasitic / 3 + load) for load in LOADS)
    for pin in gate.efforts:
        text += f'      timing () {{\n        related_pin : "{pin}";\n        timing_sense : {gate.sense};\n'
        for name in ("cell_rise", "cell_fall", "rise_transition", "fall_transition"):
            text += table(name, (low, high))
        text += "      }\n"
    return text + "    }\n  }\n"


def library() -> str:
    """The file."""
    loads = ", ".join(f"{INVERTER * load:g}" for load in LOADS)
    return HEADER.replace("LOADS", loads) + "".join(map(cell, GATES)) + "}\n"


if __name__ == "__main__":
    sys.stdout.write(library())
