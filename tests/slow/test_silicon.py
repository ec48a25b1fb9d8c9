"""Another simulator, Icarus Verilog, on the same vectors: the circuit as generated, and its gates."""

import shutil
import subprocess

import numpy as np
import pytest

from halve.silicon import generate, liberty
from halve.silicon.model import expected, is_nan
from halve.silicon.synthesis import synthesise
from halve.silicon.unit import unit
from halve.silicon.vectors import vectors

pytest.importorskip("pyrtl", reason="halve[silicon] is not installed")
pytest.importorskip("pyosys", reason="halve[silicon] is not installed")

BENCH = """
`timescale 1ns/1ps
module bench;
  reg [{width}:0] vectors [0:{last}];
  reg [{width}:0] inputs;
  wire [{out}:0] o;
  integer i;
  {top} dut({ports});
  initial begin
    $readmemh("vectors.hex", vectors);
    for (i = 0; i <= {last}; i = i + 1) begin
      inputs = vectors[i];
      #1 $display("%h", o);
    end
    $finish;
  end
endmodule
"""


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="iverilog is not installed (apt install iverilog)")
@pytest.mark.parametrize(
    ("name", "fmt", "subnormals"),
    [
        ("multiplier", "fp8_e4m3", True),
        ("mac", "fp16", True),
        ("dot16_nvfp4", "fp4_e2m1", True),
        ("mac", "bf16", False),
    ],
)
def test_an_independent_simulator_agrees(tmp_path, name, fmt, subnormals):
    design = unit(name, fmt, subnormals=subnormals)
    inputs = {port: codes[:20_000] for port, codes in vectors(design).items()}
    netlist = synthesise(design, liberty.own())
    gates = netlist.run(inputs)["o"]
    found = simulated(tmp_path, design, inputs, sum(len(bits) for bits in netlist.outputs.values()))
    want = expected(design, inputs)
    assert np.array_equal(found, gates)
    assert np.where(want.nan, is_nan(design, found), found == want.codes).all()


def simulated(folder, design, inputs, out_bits):
    """What iverilog makes of the generated Verilog."""
    width, ports = 0, []
    for port in design.ports:
        ports.append(f".{port.name}(inputs[{width + port.bits - 1}:{width}])")
        width += port.bits
    count = len(next(iter(inputs.values())))
    lines = []
    for case in range(count):
        word, at = 0, 0
        for port in design.ports:
            word |= int(inputs[port.name][case]) << at
            at += port.bits
        lines.append(f"{word:x}")
    (folder / "vectors.hex").write_text("\n".join(lines))
    (folder / "design.v").write_text(generate.verilog(design))
    bench = BENCH.format(
        width=width - 1, last=count - 1, out=out_bits - 1, top=design.title, ports=", ".join([*ports, ".o(o)"])
    )
    (folder / "bench.v").write_text(bench)
    subprocess.run(["iverilog", "-g2005", "-o", "bench", "bench.v", "design.v"], cwd=folder, check=True)
    said = subprocess.run(["vvp", "bench"], cwd=folder, check=True, capture_output=True, text=True).stdout
    return np.array([int(line, 16) for line in said.split()], np.uint64)
