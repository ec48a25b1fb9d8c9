"""Switching energy: how much capacitance a circuit charges or discharges for one operation after another."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halve.silicon.liberty import INVERTER
from halve.silicon.logic import Lanes
from halve.silicon.netlist import Codes, Netlist, to_lanes

_ONES = np.array([value.bit_count() for value in range(1 << 16)], np.uint8)


@dataclass(frozen=True, slots=True)
class Energy:
    """Capacitance switched by one operation, in inputs of the smallest inverter: proportional to energy.

    ``settled`` counts what differs from one operation to the next; ``glitching`` counts every change on the way there,
    each gate taking one step of time.
    """

    settled: float
    glitching: float


def energy(netlist: Netlist, inputs: Mapping[str, Codes]) -> Energy:
    """The mean over the operations of ``inputs``, each after the one before; at least two."""
    before = netlist.settle({name: codes[:-1] for name, codes in inputs.items()})
    after = netlist.settle({name: codes[1:] for name, codes in inputs.items()})
    cases = len(next(iter(inputs.values()))) - 1
    real = to_lanes(np.ones(cases, np.uint64), 1)[0]  # padding cases do not count
    load = capacitances(netlist)

    settled = _changes(before, after, real)
    nets = before
    glitching = np.zeros(netlist.nets)
    for bits in netlist.inputs.values():
        index = np.array(bits, np.intp)
        glitching[index] += _changes(nets[index], after[index], real)
        nets[index] = after[index]
    for _ in range(netlist.depth):
        steps = [(kind.outputs, kind.evaluate(nets)) for kind in netlist.kinds]
        for index, values in steps:
            glitching[index] += _changes(nets[index], values, real)
            nets[index] = values
    return Energy(settled=float(settled @ load) / cases, glitching=float(glitching @ load) / cases)


def capacitances(netlist: Netlist) -> NDArray[np.float64]:
    """What each net loads: the inputs it drives, and its driver's own output, taken to be like one of its inputs.

    In inputs of the smallest inverter; an output of the circuit drives one. Wires are not counted.
    """
    load = np.zeros(netlist.nets)
    (inverter,) = netlist.library.smallest(INVERTER).capacitance.values()
    for gate in netlist.gates:
        pins = list(gate.cell.capacitance.values())
        for net, pin in zip(gate.inputs, pins, strict=True):
            load[net] += pin
        load[gate.net] += sum(pins) / len(pins)
    for bits in netlist.outputs.values():
        for net in bits:
            load[net] += inverter
    load[:2] = 0  # constants
    return load / inverter


def _changes(before: Lanes, after: Lanes, real: Lanes) -> NDArray[np.float64]:
    """How many cases differ, for each net."""
    changes: NDArray[np.float64] = _ONES[((before ^ after) & real).view(np.uint16)].sum(axis=-1, dtype=np.float64)
    return changes
