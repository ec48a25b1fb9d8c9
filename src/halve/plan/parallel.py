"""How a model is cut over devices."""

from collections.abc import Iterator
from dataclasses import dataclass

from halve.hardware import Machine
from halve.models.shape import Shape

DOMAINS = 4  # boards or racks that a search goes up to,
DEVICES = 256  # and devices


@dataclass(frozen=True, slots=True, order=True)
class Parallel:
    """``tp`` devices share each matrix, ``pp`` share the layers, and ``dp`` groups take sequences of their own.

    Of a model with experts the groups share the experts: each device of ``tp`` x ``dp`` holds a part of them (that is
    the expert parallelism). Without experts, ``dp`` groups are copies.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1

    @property
    def devices(self) -> int:
        """How many devices."""
        return self.tp * self.pp * self.dp

    @property
    def name(self) -> str:
        """As engines write it."""
        parts = [f"{key}{n}" for key, n in (("tp", self.tp), ("pp", self.pp), ("dp", self.dp)) if n > 1]
        return " ".join(parts) or "1 device"

    def why_impossible(self, shape: Shape, machine: Machine) -> str:
        """Why no engine runs this; empty where one may."""
        if min(self.tp, self.pp, self.dp) < 1:
            return "less than one device"
        if self.tp > machine.devices:
            return f"tp {self.tp} is larger than the {machine.devices} devices that the link of {machine.name} joins"
        if self.pp > shape.depth:
            return f"pp {self.pp} is more than the {shape.depth} layers"
        heads = [layer.attention.heads for layer in shape.layers if layer.attention.heads]
        if any(count % self.tp for count in heads):
            return f"tp {self.tp} does not divide the {heads[0]} heads"
        return ""


def candidates(shape: Shape, machine: Machine) -> Iterator[Parallel]:
    """Ways to cut ``shape``: powers of two, tp within a domain, up to `DOMAINS` of them; the fewest devices first."""
    domains = DOMAINS if machine.scale_out_gbs.value and machine.devices > 1 else 1
    limit = min(machine.devices * domains, DEVICES)
    powers = [1 << k for k in range(limit.bit_length()) if 1 << k <= limit]
    experts = any(layer.mlp.experts for layer in shape.layers)
    found = [
        Parallel(tp, pp, dp)
        for tp in powers
        for pp in (1, 2, 4)
        for dp in (powers if experts and pp == 1 else (1,))
        if tp * pp * dp <= limit and (machine.link_gbs.value or tp * pp * dp == 1)
    ]
    yield from (p for p in sorted(found, key=lambda p: (p.devices, p)) if not p.why_impossible(shape, machine))
