"""The circuit of a unit, as Verilog."""

import io
import re

import pyrtl
from pyrtl import Input, Output, WireVector, concat

from halve.formats import Float, Int
from halve.silicon.circuits import floating, integer
from halve.silicon.circuits.tile import fixed, tile
from halve.silicon.circuits.wires import carry_save_sum, conditional_invert, unsigned
from halve.silicon.unit import FP32, Unit

_NUMBERED = re.compile(r"\b(tmp|const_)(\d+)")


def build(unit: Unit) -> str:
    """The module: PyRTL's, without the clock that nothing uses."""
    text = io.StringIO()
    with pyrtl.temp_working_block():
        inputs = {port.name: Input(port.bits, port.name) for port in unit.ports}
        result = _integer(unit, inputs) if isinstance(unit.element, Int) else _floating(unit, unit.element, inputs)
        output = Output(len(result), "o")
        output <<= result
        pyrtl.output_to_verilog(text, add_reset=False, module_name=unit.title)
    module = text.getvalue()
    module = module[module.index("module ") :].replace("(clk, ", "(", 1).replace("    input clk;\n", "", 1)
    return _renumbered(module)


def _integer(unit: Unit, inputs: dict[str, WireVector]) -> WireVector:
    if unit.kind == "multiplier":
        return integer.multiply(inputs["a"], inputs["b"])
    if unit.kind == "mac":
        return integer.accumulate(integer.multiply(inputs["a"], inputs["b"]), inputs["c"])
    a, b = _vectors(unit, inputs)
    if unit.scale is None:
        return integer.accumulate(integer.dot(a, b), inputs["c"])
    return tile(unit, a, b, inputs["c"], _scales(unit, inputs))


def _floating(unit: Unit, fmt: Float, inputs: dict[str, WireVector]) -> WireVector:
    subnormals = unit.subnormals
    if unit.kind == "dot":
        return tile(unit, *_vectors(unit, inputs), inputs["c"], _scales(unit, inputs))
    a, b = inputs["a"], inputs["b"]
    match unit.kind:
        case "multiplier":
            return floating.multiply(fmt, a, b, to=fmt, subnormals=subnormals)
        case "adder":
            return floating.add(fmt, a, b, subnormals=subnormals)
        case "mac":
            product = floating.multiply(fmt, a, b, to=FP32, subnormals=subnormals)
            return floating.add(FP32, product, inputs["c"], subnormals=subnormals)
    product = floating.exact_product(fmt, a, b, subnormals=subnormals)
    if unit.kind == "exact_product":
        return concat(product.nan, product.inf, product.sign, product.exponents, product.significand)
    bits = unit.accumulator_bits
    term = conditional_invert(fixed(fmt, product, bits), product.sign)
    return carry_save_sum([term, inputs["c"], unsigned(product.sign, bits)], bits)


def _vectors(unit: Unit, inputs: dict[str, WireVector]) -> tuple[list[WireVector], list[WireVector]]:
    return [inputs[f"a{i}"] for i in range(unit.products)], [inputs[f"b{i}"] for i in range(unit.products)]


def _scales(unit: Unit, inputs: dict[str, WireVector]) -> list[tuple[WireVector, WireVector]]:
    return [(inputs[a], inputs[b]) for a, b in unit.scales]


def _renumbered(module: str) -> str:
    """``module`` with wires numbered from zero: PyRTL counts on for as long as the process lives."""
    first: dict[str, int] = {}
    for kind, number in _NUMBERED.findall(module):
        first[kind] = min(first.get(kind, int(number)), int(number))
    return _NUMBERED.sub(lambda found: f"{found[1]}{int(found[2]) - first[found[1]]}", module)
