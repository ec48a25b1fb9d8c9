"""The native side: kernels for packed weights, and the threads that share their work."""

from functools import cache
from typing import TYPE_CHECKING, Literal, get_args

from halve.codecs import dispatch
from halve.errors import UnsupportedError
from halve.hardware.measure import cores

try:
    from halve import _native as native
except ImportError:
    native = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from halve._native import PackedKernels, Pool

__all__ = ["MODES", "Mode", "cores", "kernels", "native", "pool", "require"]

Mode = Literal["exact", "bf16", "int8"]
MODES: tuple[Mode, ...] = get_args(Mode)


def require() -> None:
    """Raise UnsupportedError where halve was installed without its native module."""
    if native is None:
        raise UnsupportedError(
            "packed weights need halve's native module, and it was not built",
            hint="`halve doctor` tells what is missing; install it and reinstall halve",
        )


@cache
def kernels() -> "PackedKernels":
    """The packed kernels in use, by HALVE_ISA. Raises UnsupportedError where there are none."""
    require()
    dispatch.kernels()  # which names a HALVE_ISA that cannot be
    return native.packed_kernels()


def pool(threads: int | None = None) -> "Pool":
    """A pool of ``threads`` threads; None: one for each core. Raises UnsupportedError for more threads than cores."""
    require()
    if threads is None:
        threads = cores()
    if not 1 <= threads <= cores():
        raise UnsupportedError(
            f"{threads} threads on {cores()} cores: threads that wait for a core hold up all the others",
            hint=f"use 1 to {cores()} threads",
        )
    return native.Pool(threads)
