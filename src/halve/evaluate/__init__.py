"""What a precision costs: perplexity, divergence, the loss of every layer, reports.

The package and the function that it is for share a name, and Python gives it to whichever was imported last. So the
package can be called, and ``halve.evaluate(path, against=base)`` works whatever has been imported.
"""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """:func:`halve.evaluate.evaluator.evaluate`."""
        from halve.evaluate.evaluator import evaluate  # noqa: PLC0415 - the package itself stays light

        return evaluate(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
