"""Tensors that hold the matrices of all experts of a layer."""

import re
from dataclasses import dataclass

PACKED = re.compile(r"(?P<experts>.+\.experts)\.(?P<projection>gate_up_proj|down_proj)$")


@dataclass(frozen=True, slots=True)
class Stack:
    """A tensor [experts, out, in], or [experts, in, out] where ``transposed``.

    The rows (out) of each expert are those of ``parts`` one after another, equally many each: part p of expert e is the
    weight ``<experts>.<e>.<p>.weight`` [out / parts, in] by the name that engines look for.
    """

    tensor: str
    transposed: bool
    parts: tuple[str, ...]

    def weight(self, expert: int, part: str) -> str:
        """Name of a part's weight."""
        return f"{self.tensor.rpartition('.')[0]}.{expert}.{part}.weight"
