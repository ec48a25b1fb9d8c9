"""What machines can do: one file of `data` each, every number with its source; and this machine, measured.

`find` is what callers use. Dense and sparse rates stand apart, and nothing computes with the sparse ones.
"""

from halve.hardware.number import Number
from halve.hardware.table import FORMATS, Machine, Support, find, machines

__all__ = ["FORMATS", "Machine", "Number", "Support", "find", "machines"]
