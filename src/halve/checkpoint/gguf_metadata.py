"""The key-value section of a GGUF file, with typed access."""

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from halve.checkpoint.place import Place
from halve.errors import CheckpointError

DAMAGED = "the file is incomplete, damaged or not what it claims to be: download or convert it again"


class Metadata(Mapping[str, Any]):
    """The key-value section. Numbers are Python's, arrays of numbers numpy's, other arrays lists.

    The typed getters raise CheckpointError where a key is absent (and has no default) or holds another type.
    """

    def __init__(self, path: Place, values: dict[str, Any]) -> None:
        self.path = path
        self._values = values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def integer(self, key: str, default: int | None = None) -> int:
        """Return a whole number."""
        return int(self._typed(key, default, "an integer", int))

    def number(self, key: str, default: float | None = None) -> float:
        """Return a finite number."""
        value = self._typed(key, default, "a finite number", (int, float))
        return float(value) if isfinite(value) else self._wrong(key, "a finite number", value)

    def flag(self, key: str, *, default: bool | None = None) -> bool:
        """Return a bool."""
        return bool(self._typed(key, default, "a bool", bool))

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string."""
        return str(self._typed(key, default, "a string", str))

    def texts(self, key: str) -> list[str]:
        """Return an array of strings."""
        value: list[Any] = self._typed(key, None, "an array of strings", list)
        if not all(isinstance(item, str) for item in value):
            self._wrong(key, "an array of strings", value)
        return value

    def integers(self, key: str) -> NDArray[np.integer[Any]]:
        """Return an array of whole numbers."""
        return self._array(key, "an array of integers", np.integer)

    def numbers(self, key: str) -> NDArray[np.floating[Any]]:
        """Return an array of floating-point numbers."""
        return self._array(key, "an array of numbers", np.floating)

    def _array(self, key: str, wanted: str, kind: Any) -> NDArray[Any]:
        value = self._typed(key, None, wanted, np.ndarray)
        if not np.issubdtype(value.dtype, kind):
            self._wrong(key, wanted, value)
        return np.asarray(value)

    def _typed(self, key: str, default: Any, wanted: str, kind: type | tuple[type, ...]) -> Any:
        value = self._values.get(key, default)
        if value is None:
            raise CheckpointError(f"{self.path}: the metadata has no {key}", hint=DAMAGED)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self._wrong(key, wanted, value)
        return value

    def _wrong(self, key: str, wanted: str, value: Any) -> NoReturn:
        found = f"{value!r:.60}" if isinstance(value, str | int | float) else f"an array of {len(value)}"
        raise CheckpointError(f"{self.path}: {key} must be {wanted}, not {found}", hint=DAMAGED)
