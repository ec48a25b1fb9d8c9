"""The planner: what serving or training a model takes on which machine. ``halve.plan(MODEL, ...)`` is `serve`.

>>> import halve
>>> halve.plan("Llama-3.1-8B", hardware="H100").options[0].machine.name
'H100-SXM'
"""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """This package, which one may also call: `halve.plan` is both the package and what most people want of it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See `halve.plan.serving.serve`."""
        from halve.plan.serving import serve  # noqa: PLC0415 - the tables are read when they are asked for

        return serve(*args, **kwargs)


# The documented way to give a module a class of its own: Python data model, 3.3.2.1
sys.modules[__name__].__class__ = _Callable
