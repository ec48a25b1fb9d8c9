"""A measure of outputs that the user has written: a function in a Python file of their own."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from halve.edge.hybrid import Metric, Outputs
from halve.errors import HalveError, UnsupportedError

_HINT = "def accuracy(exact, found): gets two lists of {output: array}, and returns a number; more is better"


def metric(place: str) -> Metric:
    """The function at ``place``, FILE.py:NAME. The file is run, as any program of the user's is.

    What it returns calls the function, and raises UnsupportedError where that fails or gives no finite number.
    Raises UnsupportedError for a file or a name that is not there, and for a file that fails.
    """
    file, _, name = place.rpartition(":")
    path = Path(file)
    if not file or not path.is_file():
        raise UnsupportedError(f"{place}: no FILE.py:NAME of a function", hint=_HINT)
    spec = importlib.util.spec_from_file_location("halve_user_metric", path)
    if spec is None or spec.loader is None:
        raise UnsupportedError(f"{path} is no Python file", hint=_HINT)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UnsupportedError(f"{path} failed: {type(error).__name__}: {error}", hint=_HINT) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UnsupportedError(f"{path} has no function {name}", hint=_HINT)

    def measured(exact: Sequence[Outputs], found: Sequence[Outputs]) -> float:
        try:
            value = float(function(exact, found))
        except HalveError:
            raise
        except Exception as error:
            raise UnsupportedError(f"{place} failed: {type(error).__name__}: {error}", hint=_HINT) from error
        if not np.isfinite(value):
            raise UnsupportedError(f"{place} gave {value}, which is no measure", hint=_HINT)
        return value

    return measured
