"""halve: low-precision numbers for deep learning, from the single bit to the rack.

>>> import halve
>>> halve.formats.get("fp8_e4m3").max
448.0
"""

import os
from typing import TYPE_CHECKING, Any

from halve import formats
from halve.errors import HalveError

if TYPE_CHECKING:
    from halve import plan
    from halve.codecs.cast import cast
    from halve.evaluate.evaluator import evaluate
    from halve.pipeline.calibrate import calibrate
    from halve.pipeline.convert import convert
    from halve.pipeline.inspect import inspect
    from halve.pipeline.quantize import quantize
    from halve.pipeline.verify import verify
    from halve.runtime.load import load

if os.environ.get("HALVE_REQUIRE_NATIVE", "0") not in ("", "0"):
    try:
        __import__("halve._native")
    except ImportError as error:
        raise ImportError(f"HALVE_REQUIRE_NATIVE is set, and halve's native module cannot be used: {error}") from None

__version__ = "0.1.0"
__all__ = [
    "HalveError",
    "__version__",
    "calibrate",
    "cast",
    "convert",
    "evaluate",
    "formats",
    "inspect",
    "load",
    "plan",
    "quantize",
    "verify",
]

_LAZY = {
    "calibrate": "halve.pipeline.calibrate",
    "cast": "halve.codecs.cast",
    "convert": "halve.pipeline.convert",
    "evaluate": "halve.evaluate.evaluator",
    "inspect": "halve.pipeline.inspect",
    "load": "halve.runtime.load",
    "plan": "halve.plan",
    "quantize": "halve.pipeline.quantize",
    "verify": "halve.pipeline.verify",
}


def __getattr__(name: str) -> Any:
    """Import what needs numpy only when it is asked for: ``halve --help`` does not."""
    if name not in _LAZY:
        raise AttributeError(f"module 'halve' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    module = import_module(_LAZY[name])
    return module if name == "plan" else getattr(module, name)
