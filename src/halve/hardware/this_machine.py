"""This machine as a row of the table: memory as the kernel says, bandwidth as measured now."""

import platform

from halve.hardware.measure import cores, memory, processor, read_rate, read_size
from halve.hardware.number import UNKNOWN, Number
from halve.hardware.table import FORMATS, Machine, Support

_EXPANDED = Support("emulated", "weights are expanded in the kernel")


def this_machine() -> Machine:
    """Measure for less than a second. Arithmetic rates are not measured: only decoding can be planned."""
    found = memory()
    total, available = found.get("MemTotal", 0), found.get("MemAvailable", 0)
    rate = read_rate(read_size(available), cores())
    return Machine(
        name="this",
        aliases=(),
        vendor=platform.machine(),
        generation="x86" if platform.machine() in ("x86_64", "AMD64") else "cpu",
        kind="cpu",
        year=None,
        preliminary=False,
        memory_type=processor(),
        memory_gb=Number(total / 1e9, total / 1e9, "/proc/meminfo") if total else UNKNOWN,
        bandwidth_gbs=Number(rate / 1e9, rate / 1e9, f"measured now, {cores()} cores reading"),
        dense_tflops={"bf16": Number(None, None, why="not measured")},
        sparse_tflops={},
        measured_tflops={},
        formats=dict.fromkeys(FORMATS, _EXPANDED),
        exp2_per_clk_sm=UNKNOWN,
        exp2_tera=UNKNOWN,
        sms=UNKNOWN,
        clock_ghz=UNKNOWN,
        link_gbs=UNKNOWN,
        domain=Number(1, 1, "one machine"),
        scale_out_gbs=UNKNOWN,
        tdp_w=UNKNOWN,
        transistors_b=UNKNOWN,
        dies=UNKNOWN,
        usd_per_hour=UNKNOWN,
        rack={},
        notes=(),
    )
