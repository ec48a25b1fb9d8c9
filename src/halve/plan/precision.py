"""What a model's numbers are stored and multiplied in: weights by role, activations, the cache."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from halve import formats, schemes
from halve.hardware import Machine, Support
from halve.models.shape import QUANTIZED, Role
from halve.schemes import Block, Scheme

_BLOCKED = {("fp4_e2m1", 16): "nvfp4", ("fp4_e2m1", 32): "mxfp4", ("fp8_e4m3", 32): "mxfp8"}
_ELEMENTS = {"fp8_e4m3": "fp8", "int8": "int8", "int4": "int4", "uint4": "int4", "fp6_e2m3": "fp6", "fp6_e3m2": "fp6"}
WIDE = "bf16"  # what engines keep and compute the rest in; FP16 is as large and as fast


@dataclass(frozen=True, slots=True)
class Precision:
    """``scheme`` for the linear layers of the model, other schemes for the ``roles`` that differ, ``kv`` for the cache.

    Embeddings, head, routers and norms stay in 16 bits unless ``roles`` says otherwise.
    """

    scheme: Scheme
    kv: str = WIDE
    roles: Mapping[Role, Scheme] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The scheme's name, and that of the cache where it is not in 16 bits."""
        return self.scheme.name + ("" if self.kv == WIDE else f", kv {self.kv}")

    def of(self, role: Role) -> Scheme:
        """The scheme of the weights of ``role``."""
        if role in self.roles:
            return self.roles[role]
        if self.scheme.dense or role in QUANTIZED:
            return self.scheme
        return schemes.get(WIDE)

    def weight_bits(self, role: Role) -> float:
        """Bits of a weight of ``role``, scales included."""
        return self.of(role).bpw

    @property
    def cache_bits(self) -> int:
        """Bits of a number in the cache."""
        return {"bf16": 16, "fp8": 8, "int8": 8}[self.kv]


def multiplied_in(block: Block | None) -> str:
    """The format, as machines are asked for it, in which such activations are multiplied."""
    if block is None or block.scale is None:
        return WIDE
    blocked = _BLOCKED.get((block.element, block.block_size)) if isinstance(block.block_size, int) else None
    return blocked or _ELEMENTS.get(block.element, WIDE)


def arithmetic(machine: Machine, scheme: Scheme) -> str:
    """The format in which ``machine`` multiplies under ``scheme``: that of its activations, or what it expands them to.

    Where only one operand is narrow, or the multiplier lacks the format, both are 16 bits wide.
    """
    wanted = multiplied_in(scheme.activation if not scheme.dense else None)
    if machine.formats[wanted].level == "native" and machine.rate(wanted) is not None:
        return wanted
    if wanted == WIDE or machine.formats[WIDE].level == "absent":
        return wanted
    return WIDE


def support(machine: Machine, scheme: Scheme) -> Support:
    """Whether ``machine`` runs ``scheme``: the least of what it does with the formats of weights and activations."""
    if scheme.dense:
        return machine.formats.get(scheme.weight.element, Support("native"))
    blocks = [scheme.weight] if scheme.activation is None else [scheme.weight, scheme.activation]
    found = [_multiplied(machine, multiplied_in(block)) for block in blocks]
    return max(found, key=lambda one: ("native", "emulated", "absent").index(one.level))


def _multiplied(machine: Machine, name: str) -> Support:
    """What ``machine`` does with operands in the format ``name``; those of none of its formats are expanded."""
    if name != WIDE:
        return machine.formats[name]
    return Support("absent", "fixed-function unit without it") if machine.kind == "npu" else Support("emulated")


def element_bits(scheme: Scheme) -> int:
    """Bits of an element, without scales."""
    return formats.get(scheme.weight.element).storage_bits
