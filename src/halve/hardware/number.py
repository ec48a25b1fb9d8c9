"""A number that says where it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Number:
    """A value, or an interval of them, with its ``source``; where nobody published one, ``why`` it is unknown."""

    low: float | None
    high: float | None
    source: str = ""
    why: str = ""

    @property
    def value(self) -> float | None:
        """The value; the middle of an interval; None where it is unknown."""
        return None if self.low is None or self.high is None else (self.low + self.high) / 2

    @property
    def text(self) -> str:
        """The value or the interval; a dash where it is unknown."""
        if self.low is None or self.high is None:
            return "-"
        return f"{self.low:g}" if self.low == self.high else f"{self.low:g}-{self.high:g}"

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> "Number":
        """From a data file. Raises ValueError for a value without a source, and for null without a reason."""
        value, source, why = content.get("value"), str(content.get("source", "")), str(content.get("why", ""))
        if value is None:
            if not why:
                raise ValueError("null without a reason")
            return cls(None, None, "", why)
        if not source:
            raise ValueError(f"{value} without a source")
        low, high = value if isinstance(value, list) else (value, value)
        return cls(float(low), float(high), source, why)

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        if self.low is None:
            return {"value": None, "why": self.why}
        value = self.low if self.low == self.high else [self.low, self.high]
        return {"value": value, "source": self.source}


UNKNOWN = Number(None, None, why="not published")
