"""A mapped netlist: cells of a library and the nets between them, simulated 64 cases a word."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halve.errors import UnsupportedError
from halve.silicon.liberty import Cell, Library
from halve.silicon.logic import Expression, Lanes

Codes = NDArray[np.uint64]  # the bits of a port, a number for each case
_ZERO, _ONE = 0, 1  # nets of the constants
_PIECE = 1 << 14  # cases at a time


@dataclass(frozen=True, slots=True)
class Gate:
    """One output of a cell, and the nets at its inputs."""

    cell: Cell
    output: str
    inputs: tuple[int, ...]  # in the order of `cell.capacitance`
    net: int


@dataclass(frozen=True, slots=True, eq=False)
class Rank:
    """Gates of one sort that do not depend on each other: evaluated together."""

    function: Expression
    names: tuple[str, ...]
    inputs: tuple[NDArray[np.intp], ...]
    outputs: NDArray[np.intp]

    def evaluate(self, nets: Lanes) -> Lanes:
        """Values of the outputs."""
        return self.function({name: nets[index] for name, index in zip(self.names, self.inputs, strict=True)})


@dataclass(frozen=True, eq=False)
class Netlist:
    """Gates, and the nets of the ports, least significant bit first. Nets 0 and 1 are constants."""

    library: Library
    gates: tuple[Gate, ...]
    cells: tuple[str, ...]  # the cell of every instance
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]
    nets: int

    @property
    def area(self) -> float:
        """Sum of the cells' areas, in the library's unit."""
        return sum(self.library.cells[name].area for name in self.cells)

    @cached_property
    def levels(self) -> dict[int, int]:
        """How many gates stand between a port and a net, at most. Raises UnsupportedError for a loop."""
        return _levels(self.gates)

    @property
    def depth(self) -> int:
        """Gates on the longest path."""
        return max(self.levels.values(), default=0)

    @cached_property
    def ranks(self) -> list[Rank]:
        """All gates in an order in which inputs are known before outputs."""
        return _ranks(self.gates, lambda gate: self.levels[gate.net])

    @cached_property
    def kinds(self) -> list[Rank]:
        """All gates by cell, in no order of time: for a step of time in which all gates react at once."""
        return _ranks(self.gates, lambda _: 0)

    def settle(self, inputs: Mapping[str, Codes]) -> Lanes:
        """Values of all nets after the inputs have gone through, [nets, words]."""
        cases = len(next(iter(inputs.values())))
        nets = np.zeros((self.nets, -(-cases // 64)), np.uint64)
        nets[_ONE] = ~np.uint64(0)
        for name, bits in self.inputs.items():
            nets[list(bits)] = to_lanes(inputs[name], len(bits))
        for rank in self.ranks:
            nets[rank.outputs] = rank.evaluate(nets)
        return nets

    def run(self, inputs: Mapping[str, Codes]) -> dict[str, Codes]:
        """What the outputs are for each case of the inputs (equally many for every port)."""
        cases = len(next(iter(inputs.values())))
        found: dict[str, list[Codes]] = {name: [] for name in self.outputs}
        for start in range(0, cases, _PIECE):
            piece = {name: codes[start : start + _PIECE] for name, codes in inputs.items()}
            nets = self.settle(piece)
            for name, bits in self.outputs.items():
                found[name].append(from_lanes(nets[list(bits)], min(_PIECE, cases - start)))
        return {name: np.concatenate(pieces) for name, pieces in found.items()}


def from_json(module: Mapping[str, Any], library: Library) -> Netlist:
    """The netlist of a module in the JSON that Yosys writes (`help write_json`).

    Raises UnsupportedError for cells that the library does not have, and for loops.
    """
    numbers: dict[int | str, int] = {"0": _ZERO, "1": _ONE, "x": _ZERO}

    def net(bit: int | str) -> int:
        return numbers.setdefault(bit, len(numbers) - 1)

    ports: dict[str, dict[str, tuple[int, ...]]] = {"input": {}, "output": {}}
    for name, port in module["ports"].items():
        ports[port["direction"]][name] = tuple(net(bit) for bit in port["bits"])
    gates, cells = [], []
    for instance in module["cells"].values():
        kind, wires = instance["type"], instance["connections"]
        cell = library.cells.get(kind)
        if cell is None:
            raise UnsupportedError(f"{library.path}: the netlist has the unknown cell {kind}", hint="this is a fault")
        cells.append(kind)
        inputs = tuple(net(wires[pin][0]) for pin in cell.capacitance)
        gates += [Gate(cell, pin, inputs, net(wires[pin][0])) for pin in cell.functions if wires.get(pin)]
    found = Netlist(library, tuple(gates), tuple(cells), ports["input"], ports["output"], len(numbers) - 1)
    _ = found.levels
    return found


def _levels(gates: Iterable[Gate]) -> dict[int, int]:
    readers: dict[int, list[Gate]] = {}
    waiting: dict[int, int] = {}
    for gate in gates:
        waiting[gate.net] = 0
    for gate in gates:
        for source in set(gate.inputs) & waiting.keys():
            readers.setdefault(source, []).append(gate)
            waiting[gate.net] += 1
    levels: dict[int, int] = {}
    ready = [gate for gate in gates if waiting[gate.net] == 0]
    while ready:
        gate = ready.pop()
        levels[gate.net] = 1 + max((levels.get(source, 0) for source in gate.inputs), default=0)
        for reader in readers.get(gate.net, ()):
            waiting[reader.net] -= 1
            if waiting[reader.net] == 0:
                ready.append(reader)
    if len(levels) != len(waiting):
        raise UnsupportedError("the netlist has a loop", hint="only combinational circuits are simulated")
    return levels


def _ranks(gates: Iterable[Gate], order: Callable[[Gate], int]) -> list[Rank]:
    groups: dict[tuple[int, str, str], list[Gate]] = {}
    for gate in gates:
        groups.setdefault((order(gate), gate.cell.name, gate.output), []).append(gate)
    ranks = []
    for key in sorted(groups):
        same = groups[key]
        columns = zip(*(gate.inputs for gate in same), strict=True)
        ranks.append(
            Rank(
                same[0].cell.functions[key[2]],
                tuple(same[0].cell.capacitance),
                tuple(np.array(column, np.intp) for column in columns),
                np.array([gate.net for gate in same], np.intp),
            )
        )
    return ranks


def to_lanes(codes: Codes, bits: int) -> Lanes:
    """``codes`` as lanes, [bits, words]: bit ``i`` of case ``n`` is bit ``n % 64`` of word ``n // 64``."""
    padded = np.zeros(-(-len(codes) // 64) * 64, np.uint64)
    padded[: len(codes)] = codes
    lanes = np.empty((bits, len(padded) // 64), np.uint64)
    for i in range(bits):
        ones = (padded >> np.uint64(i)).astype(np.uint8) & np.uint8(1)
        lanes[i] = np.packbits(ones, bitorder="little").view("<u8")
    return lanes


def from_lanes(lanes: Lanes, cases: int) -> Codes:
    """The inverse of :func:`to_lanes`; at most 64 lanes."""
    codes = np.zeros(lanes.shape[1] * 64, np.uint64)
    for i, lane in enumerate(lanes):
        ones = np.unpackbits(np.ascontiguousarray(lane).view(np.uint8), bitorder="little")
        codes |= ones.astype(np.uint64) << np.uint64(i)
    return codes[:cases]
