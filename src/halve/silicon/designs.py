"""The units that are measured for the package: what ships, and formats that nobody ships."""

from halve.silicon.unit import Unit, unit

FLOATS = ("fp32", "tf32", "bf16", "fp16", "fp8_e4m3", "fp8_e5m2", "fp6_e2m3", "fp6_e3m2", "fp4_e2m1")
INTEGERS = ("int16", "int8", "int4")
NARROW = ("fp8_e4m3", "fp6_e2m3", "fp6_e3m2", "fp4_e2m1")
UNSHIPPED = ("e2m5", "e3m4", "e3m3", "e2m4", "e2m2", "e3m1", "int7", "int6", "int5", "int3")
_BY_UNIT: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("multiplier", (*FLOATS, *INTEGERS, "e3m4", "e2m5")),
    ("exact_product", FLOATS),
    ("adder", ("fp32",)),
    ("mac", (*FLOATS, *INTEGERS)),
    ("fixed_mac", NARROW),
    ("dot16", (*FLOATS, *INTEGERS)),
    ("dot32", ("fp16", "fp8_e4m3", "fp4_e2m1", "int8")),
    ("dot16_mx", (*NARROW, "int8", "int4", *UNSHIPPED)),
    ("dot32_mx", ("fp8_e4m3", "fp4_e2m1")),
    ("dot16_nvfp4", ("fp4_e2m1", "int4", "e2m2", "e3m1", "int5", "int3")),
    ("dot32_nvfp4", ("fp4_e2m1",)),
)
_FLUSHED = ("fp32", "bf16", "fp16", "fp8_e4m3")  # multipliers without subnormals


def packaged_designs() -> tuple[Unit, ...]:
    """All that the package has numbers of."""
    flushed = [unit("multiplier", name, subnormals=False) for name in _FLUSHED]
    return *(unit(name, fmt) for name, formats in _BY_UNIT for fmt in formats), *flushed


def quick_designs() -> tuple[Unit, ...]:
    """Units of one pair of at most 8 bits, tiles of 16 with at most 4, and the FP16 multiplier: for every change."""
    most = {"dot16": 4, "dot16_mx": 4, "dot16_nvfp4": 4, "dot32": 0, "dot32_mx": 0, "dot32_nvfp4": 0}
    found = [design for design in packaged_designs() if design.element.bits <= most.get(design.name, 8)]
    return *found, unit("multiplier", "fp16")
