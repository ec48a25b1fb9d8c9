"""Strips of one weight at a time for each thread, whatever its tensors are called."""

from threading import local

from halve.checkpoint.transposed import Columns


class Strips(local):
    """Hands out `Columns` that forget the weight before: those remember a strip for each last part of a name."""

    def __init__(self) -> None:
        self._weight = ""
        self._columns = Columns()

    def of(self, weight: str) -> Columns:
        """The columns of the tensors of ``weight``."""
        if weight != self._weight:
            self._weight, self._columns = weight, Columns()
        return self._columns
