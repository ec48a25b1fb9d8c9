"""Proof on the mapped netlist: what the gates give is what the codecs say, for every vector tried."""

from dataclasses import dataclass

import numpy as np

from halve.errors import VerifyError
from halve.silicon.model import expected, is_nan
from halve.silicon.netlist import Netlist
from halve.silicon.unit import Unit
from halve.silicon.vectors import vectors


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many vectors a netlist was tried on, how many came out wrong, and the first of those in words."""

    vectors: int
    mismatches: int
    first: str = ""


def verify(unit: Unit, netlist: Netlist, *, seed: int = 0) -> Verdict:
    """Try ``netlist`` on the vectors of ``unit``. A NaN may have any sign and payload."""
    inputs = vectors(unit, seed=seed)
    got, want = netlist.run(inputs)["o"], expected(unit, inputs)
    wrong = np.flatnonzero(np.where(want.nan, ~is_nan(unit, got), got != want.codes))
    first = ""
    if len(wrong):
        case = wrong[0]
        given = ", ".join(f"{name}={int(codes[case]):#x}" for name, codes in inputs.items())
        first = f"{given}: the gates give {int(got[case]):#x}, the codecs {int(want.codes[case]):#x}"
    return Verdict(len(got), len(wrong), first)


def require(unit: Unit, verdict: Verdict) -> None:
    """Raise VerifyError where a vector came out wrong: such a design is never recorded."""
    if verdict.mismatches:
        raise VerifyError(
            f"{unit.title}: {verdict.mismatches} of {verdict.vectors} vectors are wrong, first {verdict.first}",
            hint="this is a fault of halve or of the synthesis tool: please report it",
        )
