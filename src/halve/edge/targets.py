"""The NPUs that models are checked for, read from ``data/targets.yaml``: published numbers and nothing fitted."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from halve.edge.layers import Dtype
from halve.errors import UnknownNameError

WIDTHS: Mapping[Dtype, int] = {"INT8": 1, "INT16": 2, "FP16": 2}  # bytes of an element


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One NPU. ``int8_macs`` are multiplications a cycle of one core; ``sources`` say where each number is from."""

    name: str
    aliases: tuple[str, ...]
    cores: int
    clock_ghz: float
    int8_macs: int
    bandwidth_gbs: float
    sources: Mapping[str, str]

    def macs(self, dtype: Dtype) -> float:
        """Multiplications a second of one core: half as many in 16 bits (the TRM's 512 FP16 beside 1024 INT8)."""
        return self.int8_macs / WIDTHS[dtype] * self.clock_ghz * 1e9

    @property
    def bandwidth(self) -> float:
        """Bytes a second of the memory."""
        return self.bandwidth_gbs * 1e9

    def atom(self, dtype: Dtype) -> int:
        """Channels that the array takes at once, and that data in memory is padded to: the root of its INT8 products.

        32 of INT8 and 16 of FP16 on RK3588: https://github.com/mtx512/rk3588-npu
        """
        return (32 if self.int8_macs >= 1024 else 16) // WIDTHS[dtype]


@cache
def targets() -> Mapping[str, Target]:
    """Name -> target."""
    rows = yaml.safe_load((files("halve.edge") / "data" / "targets.yaml").read_text())
    return {row["name"]: _parse(row) for row in rows}


def find(name: str) -> Target:
    """The target called ``name``, in any case. Raises UnknownNameError."""
    for target in targets().values():
        if name.lower() in (target.name.lower(), *(alias.lower() for alias in target.aliases)):
            return target
    raise UnknownNameError("target", name, [one.lower() for one in targets()])


def _parse(row: Mapping[str, Any]) -> Target:
    numbers = {key: cell for key, cell in row.items() if key not in ("name", "aliases")}
    return Target(
        name=row["name"],
        aliases=tuple(row["aliases"]),
        **{key: cell["value"] for key, cell in numbers.items()},
        sources={key: cell["source"] for key, cell in numbers.items()},
    )
