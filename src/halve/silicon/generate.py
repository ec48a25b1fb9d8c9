"""Verilog of a unit: text that any simulator or synthesis tool reads."""

from threading import Lock

from halve.errors import UnsupportedError
from halve.silicon.unit import Unit

_ONE_AT_A_TIME = Lock()  # PyRTL builds in one block of the whole process


def verilog(unit: Unit) -> str:
    """The circuit as one Verilog module called ``unit.title``, with inputs ``unit.ports`` and the output ``o``.

    Equal units give equal text. Raises UnsupportedError where PyRTL is not installed.
    """
    try:
        import pyrtl  # noqa: F401, PLC0415 - needed here alone
    except ImportError:
        raise UnsupportedError(
            "circuits are built by PyRTL, which is not installed", hint="pip install 'halve[silicon]'"
        ) from None
    from halve.silicon.circuits.build import build  # noqa: PLC0415 - imports PyRTL

    with _ONE_AT_A_TIME:
        return build(unit)
